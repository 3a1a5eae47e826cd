"""Processes that may fail, their limits, and Ray."""
