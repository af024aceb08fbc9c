"""A look at a plan before it runs: can any single row reach what a step hands out?

The look reads the program and computes no value. What it proves holds for every batch; what it cannot prove, it says.
It sees how rows are treated and not how steep a function of a row is: values of parameters, chosen to make one row
count alone, are for the look at the model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from cloister.plans.calls import Rule
from cloister.plans.carried import carried
from cloister.plans.concerns import Concern, Origin, Severity
from cloister.plans.following import Followed, follow
from cloister.plans.remarks import remarks
from cloister.plans.results import Result, columns, named, results
from cloister.plans.rules import RULES
from cloister.tensor.plan.program import Program

_ORDER: Final[tuple[Severity, ...]] = ("danger", "warning", "note", "fine")
_LINES: Final = 5
"""So many lines are named where one thing stands in many."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that an owner should know, with how grave it is, and where in the plan it stands."""

    severity: Severity
    where: str
    text: str


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a plan found, the gravest first.

    ``averages`` is True only if every result of a step is proved to take all rows alike, by sums and means. ``widest``
    is the number of units of the widest layer that is trained and multiplies rows by a matrix; 0 if there is none.
    """

    findings: tuple[Finding, ...]
    averages: bool
    widest: int


def look(
    program: Program, *, rules: Mapping[str, Rule] = RULES, watched: Collection[Concern] = frozenset(Concern)
) -> Look:
    """Looks at a program, whoever made it.

    Args:
        rules: what is known of operations; others are not understood. For tests, as is ``watched``.

    Raises:
        PlanError: it is no program that could run: a line names what is not there, for instance.
    """
    found = follow(program, rules=rules, watched=watched)
    handed = results(program, found)
    findings = [
        *_concerns(program, found, handed),
        *_rows_left(handed),
        *(Finding(*each) for each in carried(program, found, handed)),
        *(Finding(*each) for each in remarks(program, found)),
    ]
    averages = all(result.averages for result in handed)
    if averages:
        findings.append(Finding("fine", "loss, metrics, gradients and buffers", _FINE))
    findings.sort(key=lambda finding: _ORDER.index(finding.severity))
    trained = [units for at, units in found.units.items() if program.gradients[at] is not None]
    return Look(tuple(findings), averages, max(trained, default=0))


_FINE: Final = (
    "each is made of sums and means over all rows of a batch, in which all rows are treated alike; none is one row's"
)


def _concerns(program: Program, found: Followed, handed: list[Result]) -> Iterator[Finding]:
    """One finding for each kind of concern about the same columns, with all its lines and what they reach."""
    alike: dict[tuple[Concern, str, str, int], list[int]] = {}
    for at, origin in enumerate(found.origins):
        if any(result.concerns >> at & 1 for result in handed):
            key = (origin.concern, origin.op.partition(".")[0], origin.detail, origin.columns)
            alike.setdefault(key, []).append(at)
    for (concern, op, detail, about), bits in alike.items():
        reached = [result for result in handed if any(result.concerns >> at & 1 for at in bits)]
        subject = f"{op} {concern.words}" + (f" ({detail})" if detail else "")
        of = f"concerns {columns(program, about)} and " if about else ""
        text = f"{subject}. It {of}reaches {named(reached)}"
        yield Finding(concern.severity, _lines([found.origins[at] for at in bits]), text)


def _lines(origins: list[Origin]) -> str:
    numbers = [str(origin.line) for origin in origins[:_LINES]]
    more = f" and {len(origins) - _LINES} more" if len(origins) > _LINES else ""
    return f"line{'s' if len(origins) > 1 else ''} {', '.join(numbers)}{more}"


def _rows_left(handed: list[Result]) -> Iterator[Finding]:
    left = [result for result in handed if result.by_row and not result.concerns]
    if left:
        yield Finding("danger", named(left), "holds an entry for each row, and so what single rows are")
