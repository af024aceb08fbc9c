"""The charter: the one file that the members sign, and what follows from it. Pure values; needs no torch."""

from cloister.charter.charter import Charter, Limits, Member, Metric, Noise

__all__ = ["Charter", "Limits", "Member", "Metric", "Noise"]
