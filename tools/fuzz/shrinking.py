"""A finding in as few and as plain steps as can be found in a bounded number of tries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tools.fuzz.campaign import Finding
from tools.fuzz.steps import Step, ids_of, made_by

TRIES = 120
TRIES_OF_HANGS = 8

Again = Callable[[Sequence[Step]], Finding | None]


def shrunk(finding: Finding, again: Again) -> Finding:
    """The same fault (kind and operation), with less before it."""
    best, tries = finding, TRIES_OF_HANGS if finding.kind == "hang" else TRIES

    def still(steps: Sequence[Step]) -> bool:
        nonlocal best, tries
        tries -= 1
        found = again(steps) if tries >= 0 else None
        if found is None or (found.kind, found.op) != (finding.kind, finding.op):
            return False
        best = found
        return True

    still(_needed(best.steps))
    at = len(best.steps) - 2
    while at >= 0 and tries > 0:
        still([*best.steps[:at], *best.steps[at + 1 :]])
        at = min(at, len(best.steps) - 1) - 1
    for at in range(len(best.steps)):
        any(still([*best.steps[:at], plainer, *best.steps[at + 1 :]]) for plainer in _plainer(best.steps[at]))
    return best


def _needed(steps: Sequence[Step]) -> list[Step]:
    """The last step, and those that make what it names, and what these name."""
    needed, kept = set(ids_of(steps[-1])), [steps[-1]]
    for step in reversed(steps[:-1]):
        if needed & set(made_by(step)):
            needed |= set(ids_of(step)) if step[0] == "call" else set()
            kept.insert(0, step)
    return kept


def _plainer(step: Step) -> Iterator[Step]:
    """A tensor whose values are all the same."""
    if step[0] == "put" and isinstance(step[4], list) and step[4]:
        whole = all(isinstance(value, bool) for value in step[4])
        yield from ([*step[:4], value] for value in ((True, False) if whole else (1, 0)))
