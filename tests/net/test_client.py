"""The caller's side of a worker elsewhere."""

from __future__ import annotations

import pytest
import torch

from cloister.errors import ConnectionLostError, OpRefusedError
from tests.support.nodes import Federation

pytestmark = pytest.mark.e2e


def test_a_result_that_is_not_what_its_pointer_says_is_dropped(three_nodes: Federation) -> None:
    with three_nodes.connect("a") as worker:
        flags = torch.ones(3, dtype=torch.bool).send(worker)
        # PyTorch foretells int64 for this and makes bool of it.
        with pytest.raises(OpRefusedError, match="another shape or type than was predicted"):
            (flags**True).get()
        assert torch.equal(flags.get(), torch.ones(3, dtype=torch.bool))


def test_a_closed_session_says_so(three_nodes: Federation) -> None:
    worker = three_nodes.connect("a")
    pointer = torch.ones(3).send(worker)
    worker.close()
    with pytest.raises(ConnectionLostError, match="connect again"):
        pointer.get()
