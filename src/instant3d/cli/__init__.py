"""Command-line interface of instant3d."""
