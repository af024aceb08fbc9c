"""What cloister costs, measured side by side in one run: ``make bench``, or ``python -m bench script transfer`` for a
part."""
