"""Measures of reconstructions, of generated assets and of the views between them."""
