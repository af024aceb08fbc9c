"""Indices that need no look at run time, because a line above has looked, or made them itself.

Several backward kernels follow indices without checking them. In a plan that autograd wrote, the indices are those of
the forward operation, and on a CPU the forward kernels do check. Where a plan shows that, looking once more would only
cost time, and would keep a plan from being vectorised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from cloister.tensor.geometry import Geometry
from cloister.tensor.ops import Op
from cloister.tensor.plan.aliases import Roots
from cloister.tensor.plan.operands import named_operands, references
from cloister.tensor.plan.program import Program

_POOLS: Final = {
    f"aten::max_pool{spatial}d_with_indices_backward": f"aten::max_pool{spatial}d_with_indices" for spatial in (2, 3)
}


class Proofs:
    """What a program's lines show about the indices of other lines."""

    def __init__(self, program: Program, operations: Sequence[Op], roots: Roots) -> None:
        self._roots = roots
        self._written: set[int] = set()
        self._makers: dict[int, tuple[int, int]] = {}
        self._lines: list[tuple[str, dict[str, Any]]] = []
        following = program.inputs
        for at, (op, line) in enumerate(zip(operations, program.lines, strict=True)):
            named = {param.name: value for param, value in named_operands(op, line.args, line.named)}
            self._lines.append((op.name, named))
            for param, value in references(op, line.args, line.named):
                if param.written:
                    self._written.add(roots.of(value))
            for place in range(line.makes):
                self._makers[following + place] = (at, place)
            following += line.makes

    def cover(self, at: int, geometries: Sequence[Geometry | None]) -> bool:
        """Whether the indices that line ``at`` follows are known to be in range; ``geometries`` are those of all values
        up to it."""
        name, named = self._lines[at]
        if name in _POOLS:
            return self._pooled(_POOLS[name], named)
        if name == "aten::nll_loss_backward":
            return any(
                earlier == "aten::nll_loss_forward"
                and self._same(before, named, "target")
                and before.get("ignore_index") == named.get("ignore_index")
                and _extent(before, "self", -1, geometries) == _extent(named, "self", -1, geometries) is not None
                for earlier, before in self._lines[:at]
            )
        if name == "aten::embedding_dense_backward":
            rows = named.get("num_weights")
            return type(rows) is int and any(
                earlier == "aten::embedding"
                and self._same(before, named, "indices")
                and _extent(before, "weight", 0, geometries) == rows
                for earlier, before in self._lines[:at]
            )
        return False

    def _pooled(self, forward: str, named: dict[str, Any]) -> bool:
        """The indices are what the pool of the same input made, and nobody wrote to them."""
        indices = named.get("indices")
        if type(indices) is not int:
            return False
        at, place = self._makers.get(indices, (0, 0))
        name, before = self._lines[at]
        made = name == forward and place == 1 and before.get("self") == named.get("self")
        return made and self._roots.of(indices) not in self._written

    def _same(self, before: dict[str, Any], named: dict[str, Any], argument: str) -> bool:
        value = named.get(argument)
        return type(value) is int and before.get(argument) == value and self._roots.of(value) not in self._written


def _extent(named: dict[str, Any], argument: str, dim: int, geometries: Sequence[Geometry | None]) -> int | None:
    value = named.get(argument)
    geometry = geometries[value] if type(value) is int and value < len(geometries) else None
    return geometry.shape[dim] if geometry is not None and geometry.shape else None
