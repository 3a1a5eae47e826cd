"""Controlled experiments on the direct system with small synthetic data sets; results in docs/direct.md."""
