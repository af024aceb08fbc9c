"""A call under examination: its arguments by name, and the questions that guards ask of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NoReturn

import torch
from torch import Tensor

from cloister.errors import HostileIndexError


class Call:
    """One call of an operation; what is asked of it and not so raises ``HostileIndexError``."""

    def __init__(self, name: str, arguments: Mapping[str, object]) -> None:
        self.name = name
        self._arguments = arguments

    def refuse(self, argument: str, allowed: str) -> NoReturn:
        raise HostileIndexError(f"{self.name}: {argument} must be {allowed}")

    def maybe(self, argument: str) -> Tensor | None:
        value = self._arguments.get(argument)
        return value if isinstance(value, Tensor) else None

    def tensor(self, argument: str) -> Tensor:
        value = self.maybe(argument)
        return self.refuse(argument, "a tensor") if value is None else value

    def integer(self, argument: str, default: int = 0) -> int:
        value = self._arguments.get(argument, default)
        return value if isinstance(value, int) else self.refuse(argument, "an integer")

    def flag(self, argument: str) -> bool:
        return bool(self._arguments.get(argument, False))

    def scale(self, argument: str) -> float | None:
        value = self._arguments.get(argument)
        return float(value) if isinstance(value, (int, float)) else None

    def argument(self, argument: str) -> object:
        return self._arguments.get(argument)

    def integers(self, argument: str) -> list[int]:
        value = self._arguments.get(argument, ())
        if isinstance(value, Tensor):
            if value.is_floating_point() or value.is_complex():
                self.refuse(argument, "integers")
            return [int(item) for item in value.flatten().tolist()]
        return [int(item) for item in value] if isinstance(value, (list, tuple)) else self.refuse(argument, "integers")

    def shaped(self, argument: str, shape: Sequence[int]) -> None:
        """A tensor of exactly this shape."""
        if list(self.tensor(argument).shape) != list(shape):
            self.refuse(argument, f"of shape {list(shape)}")

    def packed(self, *arguments: str) -> None:
        """Tensors without gaps, repetitions or another order, for kernels that take no notice of strides; or none."""
        for argument in arguments:
            value = self.maybe(argument)
            if value is not None and not value.is_contiguous():
                self.refuse(argument, "contiguous")

    def counted(self, argument: str, count: int) -> None:
        """A tensor of this many elements; absence is the kernel's affair."""
        value = self.maybe(argument)
        if value is not None and value.numel() != count:
            self.refuse(argument, f"of {count} elements")

    def bounded(self, argument: str, most: float) -> None:
        """Numbers of at most this magnitude; NaN is none."""
        values = self.tensor(argument)
        if values.numel() and not bool((values.abs() <= most).all()):
            self.refuse(argument, f"finite, and of at most {most:g} in magnitude")

    def within(self, argument: str, low: int, high: int, *, ignored: int | None = None) -> None:
        """Integers from ``low`` up to but not including ``high``, or ``ignored``."""
        self.values_within(argument, self.tensor(argument), low, high, ignored=ignored)

    def values_within(self, argument: str, values: Tensor, low: int, high: int, *, ignored: int | None = None) -> None:
        if values.is_floating_point() or values.is_complex() or values.dtype is torch.bool:
            self.refuse(argument, "integers")
        if values.numel() == 0:
            return
        least, greatest = (int(bound.item()) for bound in torch.aminmax(values))
        if low <= least and greatest < high:
            return
        if ignored is not None:
            self.values_within(argument, values[values != ignored], low, high)
            return
        self.refuse(argument, f"at least {low} and less than {high}")


Guard = Callable[[Call], None]


def each(names: Iterable[str], guard: Guard) -> dict[str, Guard]:
    """One guard for several overloads, given without ``aten::``."""
    return {f"aten::{name}": guard for name in names}
