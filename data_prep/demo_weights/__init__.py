"""From a folder of objects to demo weights with their cards, in one command (`make demo-weights`)."""
