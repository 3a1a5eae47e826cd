"""Latent diffusion in SDXL's layout: model components, text embeddings and the formulas of the diffusion process."""
