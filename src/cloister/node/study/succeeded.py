"""What a node tells its owner when it begins to work under a successor: what it goes on from, and what stays open."""

from __future__ import annotations

from collections.abc import Iterator

from cloister.charter import Charter
from cloister.ledger.records import RoundRecord, decode
from cloister.node.study.journal import Records


def remarks(charter: Charter, *, records: Records) -> Iterator[str]:
    """A sentence for each thing that is not as it is where a study simply goes on; none under a first charter, or where
    this node did not take part before."""
    old = charter.supersedes
    if old is None:
        return
    released = [each for each in map(decode, records.chain(old)) if isinstance(each, RoundRecord)]
    if released and released[-1].model != charter.limits.first_model:
        yield (
            f"serial {charter.serial} of {charter.name!r} starts from another model than the charter before it released"
            f" last, as far as that is known here, {released[-1].model.hex()}: what came after that model is lost to"
            " the study, and stays spent"
        )
    numbers = set(records.released(old))
    unfinished = {
        each.round
        for each in records.consents(old)
        if each.round not in numbers and not records.is_void(old, each.cohort)
    }
    if unfinished:
        yield (
            f"of the charter before, {len(unfinished)} round(s) were agreed to here and did not come out"
            f" ({', '.join(map(str, sorted(unfinished)))}). They stay spent: what shows that they never come out are"
            " answers under that charter, which nobody gives any more. On the model that they started from, this node"
            " agrees to the same owners, or to sufficiently others; so let owners that join begin after the first round"
        )
