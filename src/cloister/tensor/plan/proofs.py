"""Indices that need no look at run time, because a line above has looked, or made them itself.

Several backward kernels follow indices without checking them. In a plan that autograd wrote, the indices are those of
the forward operation, and on a CPU the forward kernels do check. Where a plan shows that, looking once more would only
cost time, and would keep a plan from being vectorised.
"""

from __future__ import annotations

from bisect import bisect_left
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

_COPIES: Final = frozenset({"aten::clone", "aten::_to_copy"})
_CHECKS: Final = {"aten::nll_loss_forward": "target", "aten::embedding": "indices"}
"""Forward operations that check an argument's values, on a CPU."""


class Proofs:
    """What a program's lines show about the indices of other lines."""

    def __init__(self, program: Program, operations: Sequence[Op], roots: Roots) -> None:
        self._roots = roots
        self._written: set[int] = set()
        self._makers: dict[int, tuple[int, int]] = {}
        self._lines: list[tuple[str, dict[str, Any]]] = []
        self._checks: dict[tuple[str, int], list[int]] = {}
        following = program.inputs
        for at, (op, line) in enumerate(zip(operations, program.lines, strict=True)):
            named = {param.name: value for param, value in named_operands(op, line.args, line.named)}
            self._lines.append((op.name, named))
            index = named.get(_CHECKS.get(op.name, ""))
            if type(index) is int:
                self._checks.setdefault((op.name, index), []).append(at)
            for param, value in references(op, line.args, line.named):
                if param.written:
                    self._written.add(roots.of(value))
            for place in range(line.makes):
                self._makers[following + place] = (at, place)
            following += line.makes

    def named(self, at: int) -> dict[str, Any]:
        """The arguments of line ``at`` by their names; tensors are values' numbers."""
        return self._lines[at][1]

    def input_of(self, value: int) -> int | None:
        """The input that holds the elements of a value, all or some of them, in whatever shape and whole-number type;
        None if they were made on the way, or written to."""
        while True:
            root = self._roots.of(value)
            if root in self._written:
                return None
            if root < self._roots.given:
                return root
            name, before = self._lines[self._makers[root][0]]
            if name not in _COPIES:
                return None
            value = before["self"]

    def cover(self, at: int, geometries: Sequence[Geometry | None]) -> bool:
        """Whether the indices that line ``at`` follows are known to be in range; ``geometries`` are those of all values
        up to it."""
        name, named = self._lines[at]
        if name in _POOLS:
            return self._pooled(_POOLS[name], named)
        if name == "aten::nll_loss_backward":
            before = self._checked(at, "aten::nll_loss_forward", named.get("target"))
            classes = _extent(named, "self", -1, geometries)
            same = before.get("ignore_index", 0) == named.get("ignore_index")
            return same and classes is not None and _extent(before, "self", -1, geometries) == classes
        if name == "aten::embedding_dense_backward":
            before, rows = self._checked(at, "aten::embedding", named.get("indices")), named.get("num_weights")
            return type(rows) is int and _extent(before, "weight", 0, geometries) == rows
        return False

    def _checked(self, at: int, forward: str, index: Any) -> dict[str, Any]:
        """The arguments of the last ``forward`` before line ``at`` that checked this index, if nobody writes to it."""
        if type(index) is not int or self._roots.of(index) in self._written:
            return {}
        lines = self._checks.get((forward, index), [])
        found = bisect_left(lines, at)
        return self._lines[lines[found - 1]][1] if found else {}

    def _pooled(self, forward: str, named: dict[str, Any]) -> bool:
        """The indices are what the pool of the same input made, and nobody wrote to them."""
        indices = named.get("indices")
        if type(indices) is not int:
            return False
        at, place = self._makers.get(indices, (0, 0))
        name, before = self._lines[at]
        made = name == forward and place == 1 and before.get("self") == named.get("self")
        return made and self._roots.of(indices) not in self._written


def _extent(named: dict[str, Any], argument: str, dim: int, geometries: Sequence[Geometry | None]) -> int | None:
    value = named.get(argument)
    geometry = geometries[value] if type(value) is int and value < len(geometries) else None
    return geometry.shape[dim] if geometry is not None and geometry.shape else None
