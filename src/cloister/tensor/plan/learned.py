"""What a plan learns: the tensors of a model that change from round to round. All others are frozen: a base that
adapters are trained on, statistics that a step only reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cloister.tensor.plan.program import Buffer, Id, Parameter, Program, check_after
from cloister.wire.layout import FLOATS


class Learned(NamedTuple):
    """The floating-point parameters that a plan has gradients for, and the floating-point buffers that it writes: by
    the first of each one's names, in the plan's order."""

    parameters: tuple[str, ...]
    buffers: tuple[str, ...]

    @property
    def names(self) -> frozenset[str]:
        """All of them."""
        return frozenset(self.parameters) | frozenset(self.buffers)


def learned(program: Program) -> Learned:
    """What this program learns. Whole numbers that it writes, which count, are not learned and have no mean.

    Raises:
        PlanError: as ``check_after``.
    """
    check_after(program)
    return Learned(
        tuple(_changed(program.parameters, program.gradients)), tuple(_changed(program.buffers, program.updates))
    )


def _changed(held: Sequence[Parameter | Buffer], after: Sequence[Id | None]) -> Iterator[str]:
    for each, value in zip(held, after, strict=True):
        if value is not None and each.dtype in FLOATS:
            yield each.names[0]
