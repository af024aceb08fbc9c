"""What a charter's noise is worth to each owner: epsilon by rounds, on the pages that people read before they sign.

``cloister.accounting`` computes it. Where its dp-accounting is not installed, a line says so in the place of numbers.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from decimal import ROUND_CEILING, Context
from typing import Final

from cloister.accounting.accountant import Spent, epsilon
from cloister.accounting.guessing import most_often_right
from cloister.charter.charter import Charter, Noise
from cloister.charter.names import shown
from cloister.errors import ConfigurationError, MissingDependencyError
from cloister.ledger.noise import noise_of
from cloister.wire.text import exact

_WIDTH: Final = 100
_FOUR_DIGITS: Final = Context(prec=4, rounding=ROUND_CEILING)
_PARTS: Final = (0.1, 0.25, 0.5, 0.75, 1.0)
"""The parts of the rounds after which epsilon is told; it is told after the first one too."""


def privacy(charter: Charter) -> Iterator[str]:
    """What all released models together tell of one record, or of one owner: by rounds, for each job and for all on the
    same data, and what that means. Nothing where the charter has no noise."""
    noise = charter.limits.noise
    if noise is None:
        return
    yield f"privacy     epsilon at delta {exact(noise.delta)} bounds what all rounds together tell of one {noise.unit}"
    whole = None
    try:
        for heading, spent in _settings(charter):
            whole = epsilon(spent, delta=noise.delta)
            yield from textwrap.wrap(heading, _WIDTH, initial_indent="  ", subsequent_indent="    ")
            yield from _table(spent, delta=noise.delta)
    except (MissingDependencyError, ConfigurationError) as fault:
        yield f"  {fault}"
    for name, phrase in _meaning(charter, noise, whole):
        yield from textwrap.wrap(f"  {name:<20}{phrase}", _WIDTH, subsequent_indent=" " * 22)


def rounded_up(epsilon: float) -> str:
    """An epsilon in four digits, rounded up, so that what is told is a bound too."""
    return f"{_FOUR_DIGITS.create_decimal_from_float(epsilon):f}" if math.isfinite(epsilon) else "over 10,000"


def _settings(charter: Charter) -> Iterator[tuple[str, Sequence[Spent]]]:
    """Which rounds there may be of a data set: of each job, of all jobs with its tag, of all; the last are the most."""
    names: dict[Spent, list[str]] = {}
    tags: dict[str, list[Spent]] = {}
    for job in charter.jobs:
        if (noised := noise_of(charter.limits, job)) is not None:
            spent = Spent(noised.multiplier, noised.rate, job.rounds)
            names.setdefault(spent, []).append(shown(job.name))
            tags.setdefault(job.data, []).append(spent)
    for spent, alike in names.items():
        yield f"job {alike[0]}" if len(alike) == 1 else f"each of the jobs {', '.join(alike)}", [spent]
    most = charter.limits.rounds
    for tag, found in tags.items():
        if len(found) > 1:
            yield f"all jobs on {shown(tag)}", [*_worst(found, rounds=most)]
    if len(tags) > 1:
        everything = [spent for found in tags.values() for spent in found]
        yield "all jobs, for a data set with all their tags", [*_worst(everything, rounds=most)]


def _worst(jobs: Iterable[Spent], *, rounds: int) -> Iterator[Spent]:
    """So many rounds of these jobs, those first of which more is told."""
    for spent in sorted(jobs, key=lambda each: each.rate, reverse=True):
        taken = min(spent.rounds, rounds)
        yield replace(spent, rounds=taken)
        rounds -= taken


def _table(spent: Sequence[Spent], *, delta: float) -> Iterator[str]:
    rounds = sum(each.rounds for each in spent)
    counts = sorted({1, *(math.ceil(rounds * part) for part in _PARTS)})
    epsilons = (epsilon(_worst(spent, rounds=count), delta=delta) for count in counts)
    yield f"    {'after rounds':<18}" + "".join(f"{count:>12}" for count in counts)
    yield f"    {'epsilon':<18}" + "".join(f"{rounded_up(each):>12}" for each in epsilons)


def _meaning(charter: Charter, noise: Noise, whole: float | None) -> Iterator[tuple[str, str]]:
    """``whole``: the epsilon of all rounds; None where it is not known."""
    if noise.unit == "record":
        parts = charter.limits.min_examples
        yield "one record", "a row of an owner's data set; of somebody who has several in it, more is told"
        least = f"may have {parts} rows: its epsilon is the same, as each row is drawn by itself; delta times its rows"
    else:
        parts = len(charter.owners)
        yield "one owner", "all that it contributes to a round, with nothing in its place; who is in a round is public"
        least = f"is hidden as every other, whatever rows it has; delta times the {parts} owners"
    yield "smallest owner", f"{least} is {noise.delta * parts:.2g}: on average, so many may be told entirely"
    if whole is not None:
        right = math.ceil(1000 * most_often_right(whole, delta=noise.delta)) / 10
        yield (
            "a guess",
            f"whether one was there, which is as likely as not, is right at most {exact(right)} times of 100, whatever"
            " else the guesser knows",
        )
