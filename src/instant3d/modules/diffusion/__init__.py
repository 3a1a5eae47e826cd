"""Latent diffusion in SDXL's shape: its parts, its text embeddings and the formulas of its process."""
