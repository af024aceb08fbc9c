"""A model's vector: the order of the names, end to end, and nothing but floating-point tensors."""

from __future__ import annotations

import pytest

from cloister.errors import LimitError, MessageError
from cloister.wire.layout import Layout, Place, lay_out
from cloister.wire.tensors import TensorSpec


def test_tensors_stand_in_the_order_of_their_names() -> None:
    specs = {
        "b": TensorSpec("float32", (2, 3)),
        "a.2": TensorSpec("float16", ()),
        "a.10": TensorSpec("bfloat16", (0, 4)),
        "B": TensorSpec("float32", (1,)),
    }
    layout = lay_out(specs)
    assert layout.places == (
        Place("B", specs["B"], 0, 1),
        Place("a.10", specs["a.10"], 1, 1),
        Place("a.2", specs["a.2"], 1, 2),
        Place("b", specs["b"], 2, 8),
    )
    assert layout == lay_out(dict(reversed(specs.items())))
    assert (layout.length, layout.dtype) == (8, "float32")


def test_one_float64_tensor_makes_the_vector_float64() -> None:
    layout = lay_out({"a": TensorSpec("float32", (2,)), "b": TensorSpec("float64", (1,))})
    assert (layout.length, layout.dtype) == (3, "float64")


def test_no_tensors_are_a_vector_of_none() -> None:
    assert lay_out({}) == Layout(())
    assert (lay_out({}).length, lay_out({}).dtype) == (0, "float32")


@pytest.mark.parametrize("dtype", ["int64", "bool", "complex64", "nonsense"])
def test_what_is_no_float_has_no_place(dtype: str) -> None:
    with pytest.raises(MessageError, match=r"'a' is of .*floating-point"):
        lay_out({"a": TensorSpec(dtype, (2,))})


@pytest.mark.parametrize("shapes", [[(1 << 40, 1 << 40)], [(1 << 47,), (1 << 47,), (1,)]])
def test_absurd_sizes(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(LimitError):
        lay_out({str(n): TensorSpec("float32", shape) for n, shape in enumerate(shapes)})
