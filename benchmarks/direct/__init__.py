"""Controlled experiments on the direct system, on worlds small enough for a CPU; docs/direct.md tells what came out."""
