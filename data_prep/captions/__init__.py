"""Captions of scenes: from Cap3D, from manifests, from BLIP-2, and by recolouring."""
