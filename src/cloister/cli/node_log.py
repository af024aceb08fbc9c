"""What ``cloister node log`` prints of a node's records: tables for people, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import asdict
from rich.console import Console
from rich.table import Table

from cloister.charter import Charter
from cloister.charter.owner_limits import PrivacyBudget
from cloister.errors import MissingDependencyError
from cloister.ledger.records import Noised
from cloister.node.study.budgets import Budget, Line, Privacy, privacy
from cloister.node.study.journal import Records
from cloister.study.privacy import rounded_up
from cloister.wire.text import exact, visible


def told_of(
    records: Records, budgets: Mapping[str, PrivacyBudget | None], charters: Iterable[Charter]
) -> Sequence[Privacy] | str:
    """What was told of each data set's records; or a sentence where nothing here can compute it."""
    try:
        return [*privacy(records, budgets=budgets, charters=charters)]
    except MissingDependencyError as fault:
        return str(fault)


def as_text(rounds: Iterable[Line], left: Iterable[Budget], told_of: Sequence[Privacy] | str) -> str:
    """All of it as JSON, with every digit. ``privacy`` is null where it cannot be computed."""
    found: dict[str, Any] = {
        "rounds": [{**line._asdict(), "noise": None if line.noise is None else asdict(line.noise)} for line in rounds],
        "budgets": [each._asdict() for each in left],
        "privacy": None if isinstance(told_of, str) else [each._asdict() for each in told_of],
    }
    return json.dumps(found, indent=2)


def show(rounds: Iterable[Line], left: Iterable[Budget], told_of: Sequence[Privacy] | str) -> None:
    """Prints the tables: the last one where there is noise, or its owner set a limit to what is told."""
    tables = [_rounds(rounds), _budgets(left)]
    if not isinstance(told_of, str) and told_of:
        tables.append(_privacy(told_of))
    console = Console()
    console.print(*tables, *([told_of] if isinstance(told_of, str) else []), sep="\n", markup=False)


def _rounds(rounds: Iterable[Line]) -> Table:
    table = Table("round", "charter", "data set", "contributed", "noise", "committed as", "spent", "released")
    for line in rounds:
        contributed, spent, released = (
            "yes" if flag else "no" for flag in (line.contributed, line.spent, line.released)
        )
        table.add_row(
            str(line.round),
            line.charter[:12],
            visible(line.data or "-"),
            contributed,
            _noise(line.noise) if line.contributed else "-",
            line.committed or "-",
            spent,
            released,
        )
    return table


def _noise(noise: Noised | None) -> str:
    """The multiplier, of what, and how often that is drawn."""
    if noise is None:
        return "none"
    drawn = f", rate {exact(noise.rate)}" if noise.unit == "record" else ""
    return f"{exact(noise.multiplier)} x {noise.unit}{drawn}"


def _budgets(left: Iterable[Budget]) -> Table:
    table = Table("data set", "spent", "allowed", "left")
    for each in left:
        table.add_row(visible(each.data), str(each.spent), str(each.most), str(each.left))
    return table


def _privacy(found: Iterable[Privacy]) -> Table:
    table = Table("data set", "rounds with noise", "epsilon spent", "at delta", "allowed", "left")
    for each in found:
        spent = rounded_up(each.spent) if each.spent is not None else _unbounded(each.without_noise)
        allowed = "any" if each.allowed is None else exact(each.allowed)
        left = "any" if each.left is None else f"{each.left:.4g}"
        table.add_row(visible(each.data), str(each.rounds), spent, exact(each.delta), allowed, left)
    return table


def _unbounded(without_noise: int) -> str:
    return f"no bound: {without_noise} without noise" if without_noise else "over 10,000"
