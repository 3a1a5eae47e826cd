"""Stage 1: from a sentence to four consistent views, drawn as one picture of 2 x 2 tiles."""
