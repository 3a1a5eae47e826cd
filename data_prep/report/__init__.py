"""One page on what a set of scenes holds."""
