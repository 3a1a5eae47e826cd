"""Stage 2: four posed views to a triplane NeRF (arXiv 2311.06214, section 3.2)."""
