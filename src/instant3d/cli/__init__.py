"""The command `instant3d` and its options."""
