"""Stage 1: from a prompt to four consistent views, sampled as one image of 2 x 2 tiles."""
