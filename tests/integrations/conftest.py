"""A server for the tests of this folder."""

from quick_server import start_server

__all__ = ["start_server"]
