"""Memory that was freed, by this session or another, shows through nothing that a worker makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support.sessions import Session

SECRET = 1234.5
SIZE = 4096


def spill() -> None:
    """Leaves secrets in freed memory of the sizes that are asked for below."""
    for _ in range(4):
        held = [torch.full((SIZE,), SECRET) for _ in range(8)]
        del held


FILLED: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    "empty": ("empty.memory_format", [[SIZE]], {}),
    "empty of another type": ("empty.memory_format", [[SIZE // 2]], {"dtype": "float64"}),
    "empty_like": ("empty_like", [1], {}),
    "empty_strided": ("empty_strided", [[SIZE // 2], [2]], {}),
    "empty_permuted": ("empty_permuted", [[SIZE], [0]], {}),
    "new_empty": ("new_empty", [1, [SIZE]], {}),
    "new_empty_strided": ("new_empty_strided", [1, [SIZE], [1]], {}),
}


@pytest.mark.parametrize("name", FILLED)
def test_what_nobody_wrote_is_zero(name: str) -> None:
    op, args, kwargs = FILLED[name]
    session = Session()
    session.put(torch.zeros(SIZE))
    for _ in range(20):
        spill()
        id = next(session.numbers)
        failure = session.call(op, *args, outs=[id], **kwargs)
        if failure is not None:
            assert failure.code == "refused"
            return
        assert not session.get(id).any()
        session.free(id)


def test_nor_does_it_lie_between_the_elements() -> None:
    session = Session()
    for _ in range(20):
        spill()
        gaps = session.made("empty_strided", [SIZE // 2], [2])
        between = session.made("as_strided", gaps, [SIZE // 2 - 1], [2], 1)
        assert not session.get(between).any()
        session.free(gaps, between)


def test_growing_a_tensor_is_refused() -> None:
    session = Session()
    x = session.put(torch.zeros(4))
    for op in ("resize_", "resize_as_", "_resize_output_"):
        failure = session.call(op, x, [SIZE] if op != "resize_as_" else x, outs=0)
        assert failure is not None
        assert failure.code == "refused"


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("constant_pad_nd", [1, [0, SIZE]]),
        ("max_pool2d_with_indices_backward", None),
        ("slice_backward", [1, [SIZE], 0, 0, 4, 1]),
        ("select_backward", [2, [SIZE], 0, 0]),
        ("zeros", [[SIZE]]),
        ("new_zeros", [1, [SIZE]]),
    ],
)
def test_what_is_written_in_part_is_zero_elsewhere(op: str, args: list[Any] | None) -> None:
    session = Session()
    session.put(torch.zeros(4))
    session.put(torch.zeros(()))
    if args is None:
        grad, x = session.put(torch.zeros(1, 1, 2, 2)), session.put(torch.zeros(1, 1, 64, 64))
        where = session.put(torch.zeros(1, 1, 2, 2, dtype=torch.int64))
        args = [grad, x, [32, 32], [32, 32], [0, 0], [1, 1], False, where]
    for _ in range(10):
        spill()
        id = session.made(op, *args)
        assert not session.get(id).any()
        session.free(id)


def test_one_sessions_memory_does_not_show_in_another() -> None:
    one, two = Session(), Session()
    for _ in range(20):
        secret = one.made("full", [SIZE], SECRET)
        one.free(secret)
        made = two.made("empty.memory_format", [SIZE])
        assert not (two.get(made) == SECRET).any()
        two.free(made)


@pytest.mark.parametrize("reduction", [1, 2])
def test_nor_is_it_the_loss_of_no_samples(reduction: int) -> None:
    session = Session()
    scores, classes = session.put(torch.zeros(0, 3)), session.put(torch.zeros(0, dtype=torch.int64))
    failure = session.call("multi_margin_loss", scores, classes, 1, 1.0, None, reduction, outs=[next(session.numbers)])
    assert failure is not None
    assert "not empty" in failure.text
