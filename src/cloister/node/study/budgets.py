"""A summary of a node's records for its owner: round by round, and what is left of each data set's budget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cloister.charter import Charter
from cloister.charter.charter import COUNT
from cloister.charter.owner_limits import Floors
from cloister.node.study.journal import Records


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


class Budget(NamedTuple):
    """The releases with one data set so far, and the number that its owner and the charter still allow."""

    data: str
    spent: int
    """The number of rounds, under any charter, that were released with its contribution, or still may be."""
    most: int
    left: int


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
            data = "" if part is None else part.data
            found.append(Line(charter.hex(), number, data, part is not None, how, number in spent, number in released))
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
