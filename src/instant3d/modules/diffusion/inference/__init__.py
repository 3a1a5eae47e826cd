"""SDXL's networks for inference alone: equal to diffusers' and transformers' classes, which take seconds to import."""
