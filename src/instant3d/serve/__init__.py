"""The server: one process that answers requests, and worker processes that generate assets."""
