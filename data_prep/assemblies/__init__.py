"""Plausible everyday things put together from simple solids."""
