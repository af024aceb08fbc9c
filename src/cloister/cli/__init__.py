"""The command line, one file for each noun."""

from cloister.cli.main import main

__all__ = ["main"]
