"""Evaluation of reconstructions, of generated assets and of the generated views."""
