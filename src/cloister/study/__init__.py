"""The researcher's side of a study."""
