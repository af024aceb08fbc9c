"""When each value is used last, so that a step holds no more memory than it must."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloister.tensor.ops import Op
from cloister.tensor.plan.aliases import Roots
from cloister.tensor.plan.operands import references
from cloister.tensor.plan.program import Program


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """For each line, the made values that nothing after it names (``dropped``), and the roots whose memory nothing
    after it uses (``freed``)."""

    dropped: tuple[tuple[int, ...], ...]
    freed: tuple[tuple[int, ...], ...]


def lifetimes(program: Program, operations: Sequence[Op], roots: Roots) -> Lifetimes:
    """The lifetimes of what a program's lines make."""
    last: dict[int, int] = {}
    last_of_root: dict[int, int] = {}
    following = program.inputs
    for at, (op, line) in enumerate(zip(operations, program.lines, strict=True)):
        made = range(following, following := following + line.makes)
        for value in (*made, *(value for _, value in references(op, line.args, line.named))):
            last[value] = at
            last_of_root[roots.of(value)] = at
    for value in program.outputs():
        last.pop(value, None)
        last_of_root.pop(roots.of(value), None)
    return Lifetimes(_by_line(last, program), _by_line(last_of_root, program))


def _by_line(last: dict[int, int], program: Program) -> tuple[tuple[int, ...], ...]:
    found: list[list[int]] = [[] for _ in program.lines]
    for value, at in last.items():
        if value >= program.inputs:
            found[at].append(value)
    return tuple(map(tuple, found))
