"""Training with Lightning: command lines and callbacks."""
