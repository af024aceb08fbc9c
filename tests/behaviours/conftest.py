"""Workers of every kind, so that each behaviour is shown for all of them.

``virtual``          in this process
``virtual-encoded``  in this process, every message through its bytes
``tls``              a node's process, over TLS
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest
import torch

from cloister import VirtualWorker
from cloister.tensor.worker import Worker
from tests.support.nodes import Federation

KINDS = ("virtual", "virtual-encoded", pytest.param("tls", marks=pytest.mark.e2e))

Connect = Callable[[str], Worker]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of worker that the test is run with."""
    return str(request.param)


@pytest.fixture
def nodes(kind: str, request: pytest.FixtureRequest) -> Federation | None:
    """The worker processes, for the kind that has some."""
    return request.getfixturevalue("three_nodes") if kind == "tls" else None


@pytest.fixture
def connect(kind: str, nodes: Federation | None) -> Iterator[Connect]:
    """Opens a new session at the worker of this name; it is closed after the test."""
    opened: list[Worker] = []

    def open_session(name: str) -> Worker:
        worker = nodes.connect(name) if nodes else VirtualWorker(id=name, encode=kind == "virtual-encoded")
        opened.append(worker)
        return worker

    yield open_session
    for worker in opened:
        worker.close()


@pytest.fixture(scope="session")
def sessions() -> Iterator[dict[str, Worker]]:
    """Sessions with worker processes, used by one test after the other: each leaves them as empty as it found them."""
    kept: dict[str, Worker] = {}
    yield kept
    for worker in kept.values():
        worker.close()


@pytest.fixture
def session(
    kind: str, nodes: Federation | None, sessions: dict[str, Worker], connect: Connect
) -> Iterator[Callable[[str], Worker]]:
    """An empty session at the worker of this name."""
    used: list[str] = []

    def take(name: str) -> Worker:
        if nodes is None:
            return connect(name)
        if name not in sessions:
            sessions[name] = nodes.connect(name)
        used.append(name)
        return sessions[name]

    yield take
    if any(objs(sessions[name]) for name in used):
        gc.collect()  # an exception that a test has caught may still hold some
    for name in used:
        if sessions[name].count().nbytes:  # tagged, and so held until the session ends
            sessions.pop(name).close()


@pytest.fixture
def b(session: Callable[[str], Worker]) -> Worker:
    """The worker that most tests use."""
    return session("b")


@pytest.fixture
def a(session: Callable[[str], Worker]) -> Worker:
    """Another one, to which b can move values."""
    return session("a")


@pytest.fixture
def c(session: Callable[[str], Worker]) -> Worker:
    """The one that aggregates."""
    return session("c")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def objs(worker: Worker) -> int:
    """How many objects ``worker`` holds for this session."""
    return worker.count().objects
