"""Which values share memory: each has a root, the value whose memory it is, itself or one that it is a view of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cloister.tensor.ops import Op


class Roots:
    """The roots of values, as lines are followed in order.

    A value below ``given`` is an input and its own root.
    """

    def __init__(self, given: int) -> None:
        self.given = given
        self._roots: dict[int, int] = {}

    def of(self, value: int) -> int:
        """The root of a value."""
        return self._roots.get(value, value)

    def follow(self, op: Op, args: Sequence[Any], named: Mapping[str, Any], made: Sequence[int]) -> None:
        """Takes up what a line makes: views of an argument share its memory, all else is new."""
        if op.views is None:
            return
        viewed = args[op.views] if op.views < len(args) else named.get(op.params[op.views].name)
        if type(viewed) is int:
            root = self.of(viewed)
            for value in made:
                self._roots[value] = root
