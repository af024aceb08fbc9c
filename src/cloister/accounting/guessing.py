"""What an epsilon means for one record: how often a guess whether it was in can be right."""

from __future__ import annotations

import math

from cloister.errors import ConfigurationError


def most_often_right(epsilon: float, *, delta: float) -> float:
    """How often, at most, whoever guesses whether one record was in is right, if it is as likely as not: 0.5 to 1.

    The guesser knows everything that was released and all other records. The bound is that of epsilon and delta alone,
    where both kinds of error are equally likely; the noise that has this epsilon allows less.

    P. Kairouz, S. Oh and P. Viswanath, "The Composition Theorem for Differential Privacy", ICML 2015, Theorem 2.1.

    Raises:
        ConfigurationError: an ``epsilon`` below 0, or a ``delta`` out of 0 to 1.
    """
    if not (epsilon >= 0 and 0 <= delta <= 1):
        raise ConfigurationError(f"epsilon is {epsilon} and delta {delta}; these are at least 0, and delta at most 1")
    against = math.exp(-epsilon)
    return (1 + delta * against) / (1 + against)
