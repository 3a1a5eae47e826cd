"""Checks of scene folders before training: what is wrong, how sure that is, and what to do (`instant3d doctor`)."""
