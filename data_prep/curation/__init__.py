"""Selection of scenes for training: features, labels, ranking, near-duplicates, list of ids."""
