"""Objects made from seeds, and variants of given ones."""
