"""Data sets for local training: what is in them, and their rows in batches."""
