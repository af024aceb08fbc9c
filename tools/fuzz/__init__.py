"""Looks for what a hostile caller could break, by random sessions; ``python -m tools.fuzz --help``."""
