"""Attack: keep a worker busy for years with a tensor that has no elements, and takes no memory.

Found by ``tools.fuzz``: a kernel that goes through the places of a result, of which there are 2^40 by none.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from cloister.errors import OpRefusedError
from cloister.tensor.geometry import EMPTY_PLACES, check_extents
from cloister.wire import sessions as m
from cloister.wire.limits import SIZE
from cloister.wire.tensors import TensorSpec
from tests.worker.sessions import Session

MANY = 1 << 40
CALLS: dict[str, Sequence[Any]] = {
    "aten::adaptive_max_pool2d": ([MANY, 0],),
    "aten::_adaptive_avg_pool3d": ([1, 0, MANY],),
    "aten::new_zeros": ([0, MANY],),
    "aten::repeat": ([0, 1, 1, MANY],),
}
UNBOUNDED = f"""
import resource, torch
used = resource.getrusage(resource.RUSAGE_SELF)
most = int(used.ru_utime + used.ru_stime) + 3
resource.setrlimit(resource.RLIMIT_CPU, (most, most))
torch.ops.aten.adaptive_max_pool2d(torch.ones(4, 1, 4), [{MANY}, 0])
"""


@pytest.mark.slow
def test_without_a_bound_it_does_not_end() -> None:
    done = subprocess.run([sys.executable, "-c", UNBOUNDED], capture_output=True, text=True, check=False)
    assert done.returncode in (-signal.SIGXCPU, -signal.SIGKILL), done.stderr


@pytest.mark.parametrize("op", CALLS)
def test_a_session_refuses_to_make_it(op: str) -> None:
    session = Session()
    image = session.put(torch.ones(4, 1, 4, 4))
    outs = 2 if "max" in op else 1
    failure = session.fault(op, image, *CALLS[op], outs=outs)
    assert failure is not None
    assert failure.code == "refused"
    assert "no elements" in failure.text


def test_a_session_refuses_to_be_sent_it() -> None:
    session = Session()
    with pytest.raises(OpRefusedError, match="no elements"):
        session.executor.allocate([TensorSpec("float32", (0, MANY))])
    assert session.do(m.Put(session.new_id(), TensorSpec("float32", (0, 5))), puts=[torch.empty(0, 5)]) is None


def test_what_is_empty_and_small_is_as_ever() -> None:
    check_extents((0, EMPTY_PLACES))
    check_extents((1 << 40,))  # memory is what bounds it
    with pytest.raises(OpRefusedError):
        check_extents((EMPTY_PLACES + 1, 0))


def test_nor_is_it_made_of_values() -> None:
    """A mask beside an index: PyTorch tells the shape once it has run."""
    session = Session()
    empty = session.put(torch.empty(0, 1))
    whole = session.call("aten::new_zeros", empty, [0, 1, EMPTY_PLACES])
    index = session.call("aten::new_zeros", empty, [EMPTY_PLACES, 0], dtype="int64")
    mask = session.put(torch.ones(1, dtype=torch.bool))
    assert "no elements" in session.fault("aten::index.Tensor", whole, [index, mask]).text


@pytest.mark.parametrize(
    ("op", "rest"), [("expand", [[SIZE + 1]]), ("expand", [[SIZE, 2]]), ("as_strided", [[1], [SIZE + 1], 0])]
)
def test_what_cannot_be_told_of_is_not_made(op: str, rest: list[Any]) -> None:
    """Its description would be longer than the wire allows, and the caller would take the answer for nonsense."""
    session = Session()
    assert "over the limit" in session.fault(f"aten::{op}", session.put(torch.ones(1)), *rest).text
