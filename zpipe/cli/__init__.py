"""The command line; the door of click and rich."""

from zpipe.cli.main import main

__all__ = ["main"]
