"""A summary of a node's records for its owner: round by round, and what is left of each data set's budgets, of rounds
and of privacy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from cloister.charter import Charter
from cloister.charter.charter import COUNT
from cloister.charter.owner_limits import Floors, PrivacyBudget
from cloister.ledger.records import Noised
from cloister.node.study.journal import Records
from cloister.node.study.privacy import cost


class Line(NamedTuple):
    """One round of one charter: the node's part in it, and whether its record is known."""

    charter: str
    """The charter's digest, in hexadecimal digits."""
    round: int
    data: str
    """The data set that it trained on; empty where it did not."""
    contributed: bool
    committed: str
    """``member``: with its own contribution in the cohort; ``witness``: without; empty: not at all."""
    spent: bool
    """Whether it counts for the data set's budget: a cohort with the contribution was agreed to, and is not void."""
    released: bool
    noise: Noised | None
    """What hides its contribution; None where nothing does, or there is none."""


class Budget(NamedTuple):
    """The releases with one data set so far, and the number that its owner and the charter still allow."""

    data: str
    spent: int
    """The number of rounds, under any charter, that were released with its contribution, or still may be."""
    most: int
    left: int


class Privacy(NamedTuple):
    """What the rounds with one data set have told so far, of one record, and what its owner allows."""

    data: str
    rounds: int
    """Those that were released with noise, or still may be, under any charter."""
    without_noise: int
    """Those without, of which no epsilon is a bound."""
    delta: float
    """The budget's; where there is no budget, the least of the charters'."""
    spent: float | None
    """Epsilon at ``delta``, an upper bound; None where there is no bound."""
    allowed: float | None
    """None where its owner gives no budget."""
    left: float | None
    """The difference. Rounds together cost less than the sum of what each costs alone, so that more may fit in it."""


def lines(records: Records) -> list[Line]:
    """Every round that the node's records mention, by charter and number."""
    found = []
    for charter in records.charters:
        took_part, commits, consents = records.took_part(charter), records.commits(charter), records.consents(charter)
        agreed = {each.cohort for each in consents}
        spent = {each.round for each in consents if not records.is_void(charter, each.cohort)}
        released = set(records.released(charter))
        for number in sorted({*took_part, *commits, *released}):
            part, commit = took_part.get(number), commits.get(number)
            how = "" if commit is None else "member" if commit.cohort in agreed else "witness"
            data, noise = ("", None) if part is None else (part.data, part.noise)
            marks = (number in spent, number in released)
            found.append(Line(charter.hex(), number, data, part is not None, how, *marks, noise))
    return found


def budgets(
    records: Records, *, names: Iterable[str], charters: Iterable[tuple[Charter, Floors | None]]
) -> Sequence[Budget]:
    """The budget of each data set of these names: what the most generous of the charters, each with its owner's floors,
    still allows. Releases under all of them count."""
    allowed = [
        min(charter.limits.rounds, *([] if floors is None or floors.rounds is None else [floors.rounds]), COUNT)
        for charter, floors in charters
    ]
    most = max(allowed, default=0)
    return [Budget(name, records.spent(name), most, max(0, most - records.spent(name))) for name in names]


def privacy(
    records: Records, *, budgets: Mapping[str, PrivacyBudget | None], charters: Iterable[Charter]
) -> Iterator[Privacy]:
    """What was told of each data set, by its name and its owner's budget, as the node counts it before each round;
    nothing of one without a budget where none of the charters has noise.

    Raises:
        MissingDependencyError: dp-accounting is not installed.
    """
    deltas = [charter.limits.noise.delta for charter in charters if charter.limits.noise is not None]
    for name, budget in budgets.items():
        if budget is None and not deltas:
            continue
        delta = min(deltas) if budget is None else budget.delta
        every = records.noises(name)
        noisy = [noise for noise in every if noise is not None]
        spent = cost(noisy, delta=delta) if len(noisy) == len(every) else math.inf
        allowed = None if budget is None else budget.epsilon
        left = None if allowed is None else max(0.0, allowed - spent)
        bound = spent if math.isfinite(spent) else None
        yield Privacy(name, len(noisy), len(every) - len(noisy), delta, bound, allowed, left)
