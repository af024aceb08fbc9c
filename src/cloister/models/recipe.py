"""A recipe: which distribution each tensor of a first model is drawn from, so that no researcher chooses its values.

Whoever chooses values can choose weights from which one row is read out of a mean (``cloister.models.traps``). A recipe
leaves no room for that but its distributions, which fit on a page. Those alone can still make a bad model, for example
one whose biases are far below all that its weights can add up to: look into what was drawn too.

``cloister.models.recipe_toml`` reads and writes recipes, ``cloister.models.drawing`` draws from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias, get_args

from msgspec import Meta

from cloister.wire.limits import DIMENSIONS, INPUTS
from cloister.wire.text import is_visible

TENSORS: Final = INPUTS
"""The most tensors of one recipe."""

NAME_CHARS: Final = 256
"""The longest name of a tensor."""

ELEMENTS: Final = 1 << 32
"""The most elements of all tensors together: 16 GiB of float32."""

SMALLEST: Final = 1e-12
LARGEST: Final = 1e12
"""Between these lies the size of every number that is not zero. Nothing that is computed from them is then subnormal:
some programs have the processor take those for zero, and draws have to be the same everywhere."""

_SINGLE_BITS: Final = 24
"""Of a float32's significand."""
STEPS: Final = 16
"""How many numbers of its element type a draw's width has to hold, at least."""

Dtype = Literal["float32", "float64"]
DTYPES: Final[tuple[Dtype, ...]] = get_args(Dtype)
Draw = Literal["uniform", "normal", "constant"]
DRAWS: Final[tuple[Draw, ...]] = get_args(Draw)
Size: TypeAlias = Annotated[int, Meta(ge=1, le=ELEMENTS)]
Shape: TypeAlias = Annotated[tuple[Size, ...], Meta(max_length=DIMENSIONS)]
Faults: TypeAlias = Iterator[tuple[str, str]]

NUMBERS: Final[dict[str, tuple[str, ...]]] = {
    "uniform": ("low", "high"),
    "normal": ("mean", "std", "low", "high"),
    "constant": ("value",),
}
"""The numbers that each draw has; it has no others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One tensor: its name, element type and shape, and where each of its values comes from, apart from all others.

    ``uniform``: evenly from ``low`` to ``high``. ``normal``: the normal distribution of ``mean`` and ``std``; a value
    outside of ``low`` to ``high`` is drawn again. ``constant``: ``value``, rounded to the element type.
    """

    tensor: Annotated[str, Meta(min_length=1, max_length=NAME_CHARS)]
    dtype: Dtype
    shape: Shape
    draw: Draw
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    std: float | None = None
    value: float | None = None

    @property
    def elements(self) -> int:
        """How many values the tensor has."""
        return math.prod(self.shape)


Recipe: TypeAlias = Annotated[tuple[Drawn, ...], Meta(min_length=1, max_length=TENSORS)]
"""All tensors of a model, in the order of their names, compared by code point."""


def faults(recipe: Recipe, *, place: str = "first_model") -> Faults:
    """What is wrong with a recipe: each fault's place, below ``place``, and a text."""
    if not 1 <= len(recipe) <= TENSORS:
        yield place, f"there must be 1 to {TENSORS} tensors, [[{place}]]"
    for index, entry in enumerate(recipe):
        for key, text in entry_faults(entry):
            yield f"{place}[{index}].{key}", text
        if index and entry.tensor == recipe[index - 1].tensor:
            yield f"{place}[{index}].tensor", "another entry is for this tensor"
        elif index and entry.tensor < recipe[index - 1].tensor:
            yield f"{place}[{index}].tensor", "stands before a name that it should come after: sort them by code point"
    if sum(entry.elements for entry in recipe) > ELEMENTS:
        yield place, f"the tensors have more than {ELEMENTS} elements together"


def entry_faults(entry: Drawn) -> Faults:
    """What is wrong with one entry by itself: the key, and a text."""
    if not (entry.tensor.strip() and len(entry.tensor) <= NAME_CHARS and is_visible(entry.tensor)):
        yield "tensor", f"must be a name of 1 to {NAME_CHARS} printable characters"
    if entry.dtype not in DTYPES:
        yield "dtype", f"must be one of {', '.join(DTYPES)}"
    fits = len(entry.shape) <= DIMENSIONS and all(0 < size <= ELEMENTS for size in entry.shape)
    if not fits or entry.elements > ELEMENTS:
        yield "shape", f"must be at most {DIMENSIONS} sizes from 1 on, and {ELEMENTS} elements in all"
    if entry.draw not in DRAWS:
        yield "draw", f"must be one of {', '.join(DRAWS)}"
        return
    numbers = list(_number_faults(entry))
    yield from numbers
    if not numbers and entry.draw != "constant" and entry.dtype in DTYPES:
        yield from _width_faults(entry)


def _number_faults(entry: Drawn) -> Faults:
    own = NUMBERS[entry.draw]
    for key in ("low", "high", "mean", "std", "value"):
        number = getattr(entry, key)
        if number is None and key in own:
            yield key, f"is missing; a {entry.draw} draw has {', '.join(own)}"
        elif number is not None and key not in own:
            yield key, f"has no meaning here: a {entry.draw} draw has {', '.join(own)}"
        elif number and not SMALLEST <= abs(number) <= LARGEST:  # a NaN too
            yield key, f"must be 0, or from {SMALLEST:g} to {LARGEST:g} in size"


def _width_faults(entry: Drawn) -> Faults:
    """Whether there is anything to draw from, and, for draws that may be drawn again, soon enough."""
    low, high = _present(entry.low), _present(entry.high)
    if low >= high:
        yield "high", "must be above low"
        return
    largest, width, key = max(abs(low), abs(high)), high - low, "high"
    if entry.draw == "normal":
        mean, std = _present(entry.mean), _present(entry.std)
        if std <= 0:
            yield "std", "must be above 0"
            return
        if low > mean - std or high < mean + std:
            yield ("low" if low > mean - std else "high"), "must leave one std on either side of the mean, at least"
        largest, width, key = abs(mean) + std, std, "std"
    if width < STEPS * _spacing(entry.dtype, largest):
        yield key, f"leaves too little to draw from: {entry.dtype} has fewer than {STEPS} numbers there"


def _spacing(dtype: Dtype, number: float) -> float:
    """The distance from a number to the next one of its element type."""
    return math.ulp(number) if dtype == "float64" else math.ldexp(1.0, math.frexp(number)[1] - _SINGLE_BITS)


def _present(number: float | None) -> float:
    """A number that ``_number_faults`` has found to be there."""
    return math.nan if number is None else number
