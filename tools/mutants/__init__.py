"""Breaks the lines that security rests on, one at a time, and has the unit tests beside them notice (``make mutants``).

``listed`` is the list, to be read and reviewed; ``running`` copies, breaks and runs; ``inside`` is what runs in the
process of the tests.
"""
