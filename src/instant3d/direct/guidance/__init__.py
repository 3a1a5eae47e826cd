"""Score distillation and the diffusion models that guide it."""
