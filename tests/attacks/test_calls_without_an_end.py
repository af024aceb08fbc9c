"""A researcher keeps a node busy for ever: by one call, by many, by doing nothing, by many sessions, by crashing."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloister.cli.node import app
from cloister.errors import PutOffError, UnreachableError
from cloister.net.identity import Identity
from cloister.node.crashes import FREE
from cloister.wire import sessions as m
from cloister.wire.frames import Kind
from cloister.wire.tensors import TensorSpec
from tests.node.processes import Caller, NodeProcess, closed, gone, node

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
LIMITS = 'memory = "64 MiB"\nmax_sessions = 4\nsessions_per_researcher = 2\ngrace = "2 s"\nthreads = 1\n'


@pytest.fixture(scope="module")
def carol(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity.create(tmp_path_factory.mktemp("carol") / "carol.key")


@pytest.fixture(scope="module")
def dave(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity.create(tmp_path_factory.mktemp("dave") / "dave.key")


@pytest.fixture(scope="module")
def bob(tmp_path_factory: pytest.TempPathFactory, carol: Identity, dave: Identity) -> Iterator[NodeProcess]:
    limits = LIMITS + 'call_cpu = "1 s"\nsession_cpu = "1 h"'
    with node(tmp_path_factory.mktemp("bob"), researchers=[carol, dave], session=limits) as running:
        yield running


def square(caller: Caller, size: int) -> None:
    caller.batch(m.Put(1, TensorSpec("float32", (size, size))), bodies=[bytes(4 * size * size)])


def endless(caller: Caller) -> None:
    """An operation that no guard knows: a product of matrices as large as the session may hold, thousands of times in
    one call."""
    caller.batch(m.Call("aten::ones", [[1]], {}, (2,), None, 0))
    caller.batch(m.Call("aten::expand", [2, [1 << 40]], {}, (3,), None, 0))
    caller.batch(m.Call("aten::sum", [3], {}, (4,), None, 9))


def test_a_call_without_an_end_is_ended_and_its_caller_told(bob: NodeProcess, carol: Identity, dave: Identity) -> None:
    with Caller.open(bob, carol) as caller, Caller.open(bob, dave) as other:
        other.put(1, b"here")
        endless(caller)
        kind, failure, _ = caller.ask(m.Count())
        assert (kind, failure.code) == (Kind.FAILURE, "cpu"), failure
        assert "aten::sum" in failure.text
        assert "call_cpu" in failure.text
        kind, refusal, _ = caller.receive()
        assert (kind, refusal.code) == (Kind.REFUSAL, "cpu")
        assert gone(caller.executor)
        assert other.fetch(1) == b"here"
    assert f"executor {caller.executor} at aten::sum" in bob.log.read_text()
