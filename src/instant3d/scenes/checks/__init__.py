"""Checks of scene folders before training: faults, their certainty, and remedies (`instant3d doctor`)."""
