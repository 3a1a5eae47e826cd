"""Training by Lightning: the command lines and their callbacks."""
