"""The server: one process that people and programs talk to, and worker processes that generate assets."""
