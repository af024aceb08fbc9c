"""What a step hands out, in words: the loss, metrics, gradients, new buffers, and what is known of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from cloister.plans.following import Followed
from cloister.tensor.plan.program import Program, check_after
from cloister.wire.text import quoted

What = Literal["loss", "metric", "gradient", "buffer"]
_NAMED: Final = 4
"""So many results are named; of more, the number is told."""


@dataclass(frozen=True, slots=True)
class Result:
    """One result: what it is, its name, which of its kind it is, and the concerns about it as bits."""

    what: What
    name: str
    place: int
    concerns: int
    by_row: bool
    state: int
    """The buffers that it depends on, as bits."""
    private: bool
    """It depends on rows."""

    @property
    def averages(self) -> bool:
        """Whether it is proved to take all rows alike."""
        return not self.concerns and not self.by_row


def results(program: Program, found: Followed) -> list[Result]:
    """All results of a program, in order.

    Raises:
        PlanError: gradients or buffers of parameters or buffers that there are not.
    """
    check_after(program)
    listed: list[tuple[What, str, int, int | None]] = [("loss", "", 0, program.loss)]
    listed += [("metric", each.name, at, each.value) for at, each in enumerate(program.metrics)]
    listed += [("gradient", held.names[0], at, program.gradients[at]) for at, held in enumerate(program.parameters)]
    listed += [("buffer", held.names[0], at, program.updates[at]) for at, held in enumerate(program.buffers)]
    return [_result(found, what, name, at, value) for what, name, at, value in listed if value is not None]


def _result(found: Followed, what: What, name: str, place: int, value: int) -> Result:
    held = found.values[value]
    facts = held.facts
    concerns = facts.concerns | found.unknown
    return Result(what, name, place, concerns, held.by_row, facts.state, bool(facts.columns))


def named(handed: Sequence[Result]) -> str:
    """Results in words: the loss, metric accuracy, the gradients of fc.weight and fc.bias."""
    parts = ["the loss"] if any(result.what == "loss" for result in handed) else []
    for what, one, many in (
        ("metric", "metric", "metrics"),
        ("gradient", "the gradient of", "the gradients of"),
        ("buffer", "the new value of buffer", "the new values of buffers"),
    ):
        names = [quoted(result.name) for result in handed if result.what == what]
        if names:
            parts.append(f"{one if len(names) == 1 else many} {_few(names)}")
    return joined(parts)


def _few(names: list[str]) -> str:
    if len(names) <= _NAMED:
        return joined(names)
    return f"{', '.join(names[: _NAMED - 1])} and {len(names) - _NAMED + 1} more"


def joined(parts: Sequence[str]) -> str:
    """Words in a row, with an "and" before the last."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def columns(program: Program, bits: int) -> str:
    """The tensors of the batch that bits stand for."""
    chosen = [str(at) for at in range(len(program.batch)) if bits >> at & 1]
    return f"column{'s' if len(chosen) > 1 else ''} {joined(chosen)}"
