"""What a plan learns: the tensors of a model that change from round to round. All others are frozen: a base that
adapters are trained on, statistics that a step only reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from cloister.tensor.plan.program import Buffer, Id, Parameter, Program, check_after
from cloister.wire.layout import is_learned


class Learned(NamedTuple):
    """Parameters that a plan has gradients for, and buffers that it writes: by the first of each one's names, in the
    plan's order."""

    parameters: tuple[str, ...]
    buffers: tuple[str, ...]

    @property
    def names(self) -> frozenset[str]:
        """All of them."""
        return frozenset(self.parameters) | frozenset(self.buffers)


def learned(program: Program) -> Learned:
    """What this program learns: of what it changes, the floating-point tensors. Whole numbers that it writes are
    counters: they have no mean.

    Raises:
        PlanError: as ``check_after``.
    """
    return _those(program, is_learned)


def changed(program: Program) -> Learned:
    """The same of every element type: what a training needs of its own, where the rest can be shared.

    Raises:
        PlanError: as ``check_after``.
    """
    return _those(program, _is_changed)


def _is_changed(_: str, after: Id | None) -> bool:
    return after is not None


def _those(program: Program, counts: Callable[[str, Id | None], bool]) -> Learned:
    check_after(program)
    return Learned(
        tuple(_names(program.parameters, program.gradients, counts)),
        tuple(_names(program.buffers, program.updates, counts)),
    )


def _names(
    held: Sequence[Parameter | Buffer], after: Sequence[Id | None], counts: Callable[[str, Id | None], bool]
) -> Iterator[str]:
    for each, value in zip(held, after, strict=True):
        if counts(each.dtype, value):
            yield each.names[0]
