"""Direct system (arXiv 2311.08403): one network from a prompt to a triplane, trained by score distillation (SDS)."""
