"""From rendered scenes to the few that are worth training on: features, labels, a ranking, near-duplicates, a list."""
