"""Stage 2: sparse-view reconstruction of a triplane NeRF from four posed views (arXiv 2311.06214, section 3.2)."""
