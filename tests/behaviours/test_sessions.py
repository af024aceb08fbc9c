"""Behaviours 19, 26 to 31, 33 and 36: sessions are apart, at the same time, and outlive what goes wrong in them."""

from __future__ import annotations

import os
import pickle
import re
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from cloister.errors import (
    CloisterError,
    FrameError,
    MessageError,
    MoveError,
    NetworkError,
    UnknownObjectError,
    WorkerCrashedError,
    WorkerError,
)
from cloister.tensor.worker import Worker
from cloister.wire import sessions as m
from cloister.wire.frames import Kind, unpack_prefix
from tests.behaviours.conftest import Connect, objs
from tests.support.nodes import Federation, federation


class Questions:
    """Counts what waits for an answer at some workers, and remembers the order of what is said to them."""

    def __init__(self, *workers: Worker) -> None:
        self.said: list[tuple[str, str]] = []
        for worker in workers:
            self._count(worker)

    def _count(self, worker: Worker) -> None:
        channel = worker._channel
        post, ask = channel.post, channel.ask

        def counted_post(commands: list[m.Command], *rest: object) -> object:
            self.said.append(("post", worker.id))
            return post(commands, *rest)

        def counted_ask(commands: list[m.Command], *rest: object) -> object:
            self.said.append(("ask", worker.id))
            return ask(commands, *rest)

        channel.post, channel.ask = counted_post, counted_ask

    def asked(self) -> int:
        return sum(kind == "ask" for kind, _ in self.said)


@pytest.mark.parametrize("kind", ["virtual-encoded", pytest.param("tls", marks=pytest.mark.e2e)], indirect=True)
def test_19_what_is_queued_elsewhere_leaves_before_a_question_waits(connect: Connect) -> None:
    b, a = connect("b"), connect("a")
    listening = Questions(b, a)
    p, q = b.ones(2), a.ones(2)
    p.add_(1)
    q.add_(1)
    p.get()
    asked = listening.said.index(("ask", "b"))
    assert ("post", "a") in listening.said[:asked]
    assert not a._commands


class Gate:
    """A relay before a worker that can hold back what the worker says, and counts how often it answers."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.open = threading.Event()
        self.open.set()
        self.turns = 0
        self._asked = False
        self._sockets: list[socket.socket] = [self._listener]
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def _serve(self) -> None:
        try:
            near, _ = self._listener.accept()
        except OSError:
            return
        far = socket.create_connection(self._target)
        self._sockets += [near, far]
        back = threading.Thread(target=self._relay, args=(far, near, True), daemon=True)
        self._threads.append(back)
        back.start()
        self._relay(near, far, False)

    def _relay(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if answers:
                    self.turns += self._asked
                    self.open.wait()
                self._asked = not answers
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.open.set()
        for each in self._sockets:
            with_shutdown(each)
        for thread in self._threads:
            thread.join(timeout=20)


def with_shutdown(each: socket.socket) -> None:
    """Closes a socket that another thread may be waiting at."""
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()


@contextmanager
def gated(nodes: Federation, name: str) -> Iterator[tuple[Gate, Worker]]:
    """A session at a worker behind a gate."""
    gate = Gate(nodes.nodes[name].address)
    try:
        with nodes.connect(name, address=gate.address) as worker:
            yield gate, worker
    finally:
        gate.close()


@pytest.mark.e2e
def test_19_one_worker_answers_while_another_has_not(three_nodes: Federation) -> None:
    with gated(three_nodes, "b") as (gate, b), three_nodes.connect("a") as a:
        p, q = b.ones(2), a.ones(2)
        b.flush()
        gate.open.clear()
        got: list[torch.Tensor] = []
        waiting = threading.Thread(target=lambda: got.append((p + 1).get()))
        waiting.start()
        assert (q + 1).get().tolist() == [2.0, 2.0]
        assert not got
        gate.open.set()
        waiting.join(timeout=60)
        assert got[0].tolist() == [2.0, 2.0]


HOSTILE = {
    "a pickle": pickle.dumps({"weights": [1, 2, 3]}),
    "noise": bytes(range(256)) * 4,
    "HTTP": b"GET / HTTP/1.1\r\n\r\n" + b" " * 64,
    "an unknown kind": struct.pack("<4sBBHIQ", b"CLST", 1, 99, 0, 0, 0),
    "reserved bytes": struct.pack("<4sBBHIQ", b"CLST", 1, 4, 1, 0, 0),
    "a header of terabytes": struct.pack("<4sBBHIQ", b"CLST", 1, 4, 0, 0xFFFFFFFF, 0),
    "a body of exabytes": struct.pack("<4sBBHIQ", b"CLST", 1, 4, 0, 0, (1 << 64) - 1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_26_hostile_bytes_are_no_frame(name: str) -> None:
    with pytest.raises((FrameError, CloisterError)):
        unpack_prefix(HOSTILE[name][:20])


@pytest.mark.parametrize("name", ["a pickle", "noise"])
def test_26_hostile_bytes_are_no_message(name: str) -> None:
    for kind in (Kind.HELLO, Kind.BATCH, Kind.ASK, Kind.ANSWER, Kind.PUSH):
        with pytest.raises(MessageError):
            m.decode(kind, HOSTILE[name])


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["a pickle", "HTTP", "an unknown kind", "a header of terabytes", "a body of exabytes"])
def test_26_a_worker_refuses_them_and_serves_on(three_nodes: Federation, name: str) -> None:
    with three_nodes.connect("b") as b, three_nodes.connect("b") as other:
        p = other.ones(2)
        b._channel._connection._socket.sendall(HOSTILE[name])
        with pytest.raises(CloisterError):
            b.count()
        assert (p + 1).get().tolist() == [2.0, 2.0]


def test_27_errors_arrive_typed_with_the_op_and_the_callers_line(b: Worker) -> None:
    p, far = b.ones(2, 2), torch.tensor([7]).send(b)
    with pytest.raises(IndexError) as found:
        p.index_select(0, far).get()
    assert isinstance(found.value, WorkerError)
    text = str(found.value)
    assert "aten::index_select" in text
    assert b.id in text
    assert re.search(r"test_sessions\.py, line \d+", text)
    assert "7" not in text.split("(")[0]


def test_27_the_connection_lives_on(b: Worker) -> None:
    p, far = torch.arange(4.0).reshape(2, 2).send(b), torch.tensor([7]).send(b)
    for _ in range(3):
        with pytest.raises(IndexError):
            p.index_select(0, far).get()
        assert p.sum().get() == 6.0
    assert torch.equal(p.get(), torch.arange(4.0).reshape(2, 2))


def test_27_what_depends_on_a_failed_object_fails_with_its_error(b: Worker) -> None:
    p, far = b.ones(2, 2), torch.tensor([7]).send(b)
    with pytest.raises(IndexError):
        (p.index_select(0, far) * 2).get()
    assert (p * 2).sum().get() == 8.0


def test_27_errors_carry_no_values(b: Worker) -> None:
    secret = torch.tensor([123456, -1]).send(b)
    with pytest.raises(IndexError) as found:
        nn.functional.embedding(secret, b.ones(3, 2)).get()
    assert "123456" not in str(found.value)


def test_28_two_callers_never_see_each_others_objects(connect: Connect) -> None:
    one, two = connect("b"), connect("b")
    p = torch.tensor([1.0]).send(one)
    q = torch.tensor([2.0, 3.0]).send(two)
    assert p.remote.id == q.remote.id
    assert (p * 10).get().tolist() == [10.0]
    assert (q * 10).get().tolist() == [20.0, 30.0]
    assert (objs(one), objs(two)) == (1, 1)


def test_28_nor_tags_nor_errors_nor_ids(connect: Connect) -> None:
    one, two = connect("b"), connect("b")
    torch.tensor([1.0]).send(one, tags=["#mine"])
    assert two.search("#mine") == []
    p, q = one.zeros(2, 2), two.ones(2, 2)
    with pytest.raises(WorkerError):
        torch.linalg.inv(p).get()
    assert q.sum().get() == 4.0
    only_there = [two.zeros(1) for _ in range(20)][-1]
    with pytest.raises(UnknownObjectError):
        one.ask(m.Describe((only_there.remote.id,)), m.Described)


def test_28_callers_in_threads_do_not_mix(connect: Connect) -> None:
    workers = [connect("b") for _ in range(3)]
    results: dict[int, list[float]] = {}

    def use(number: int, worker: Worker) -> None:
        p = torch.full((4,), float(number)).send(worker)
        total = []
        for step in range(20):
            p = p + number
            if step % 5 == 0:
                total.append(p.sum().item())
        results[number] = total

    threads = [threading.Thread(target=use, args=each) for each in enumerate(workers, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for number in range(1, 4):
        assert results[number] == [4.0 * number * (step + 2) for step in range(0, 20, 5)]


def test_29_no_value_passes_through_the_caller(b: Worker, a: Worker) -> None:
    p = torch.full((1000,), 7.25).send(b)
    for worker in (b, a):
        worker.flush()
    passing: list[torch.Tensor] = []
    originals = {}
    for worker in (b, a):
        channel = worker._channel
        originals[worker] = channel.ask

        def ask(
            commands: list[m.Command], puts: list[torch.Tensor], *rest: object, inner: object = channel.ask
        ) -> object:
            answer, values = inner(commands, puts, *rest)
            passing.extend([*puts, *values])
            return answer, values

        channel.ask = ask
    try:
        p.move(a)
        assert not passing
    finally:
        for worker, original in originals.items():
            worker._channel.ask = original
    assert torch.equal(p.get(), torch.full((1000,), 7.25))


@pytest.mark.e2e
def test_29_a_worker_that_has_no_address_for_the_other_says_so(three_nodes: Federation) -> None:
    with three_nodes.connect("c") as c, three_nodes.connect("b") as b:
        p = c.ones(2)
        with pytest.raises(MoveError, match="address"):
            p.move(b)
        assert p.location is c
        assert p.get().tolist() == [1.0, 1.0]
        assert b.ones(2).sum().get() == 2.0


@pytest.mark.e2e
def test_29_large_values_move_too(three_nodes: Federation) -> None:
    with three_nodes.connect("b") as b, three_nodes.connect("a") as a:
        x = torch.randn(1000, 2000)
        p = x.send(b)
        assert torch.equal(p.move(a).get(), x)


def test_30_nothing_leaks_to_another_session(connect: Connect) -> None:
    """The gate for values of registered data comes later; here, what one session has another never gets."""
    one, two = connect("b"), connect("b")
    secret = torch.full((256,), 7.25).send(one)
    assert secret.sum().get() == 256 * 7.25
    del secret
    objs(one)
    recycled = [two._born(torch.empty, 256).get() for _ in range(20)]
    assert not any(values.any() for values in recycled)
    with pytest.raises(UnknownObjectError):
        two.ask(m.Fetch((1,)), m.Values)


def iteration(worker: Worker) -> Callable[[bool], None]:
    """The inner loop of the script of 2020."""
    model = nn.Linear(2, 1).send(worker)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data, target = torch.randn(4, 2).send(worker), torch.randn(4, 1).send(worker)

    def step(read: bool) -> None:
        optimizer.zero_grad()
        loss = ((model(data) - target) ** 2).sum()
        loss.backward()
        optimizer.step()
        if read:
            loss.get()

    return step


def test_31_an_iteration_waits_once_if_it_reads_its_loss(connect: Connect) -> None:
    worker = connect("b")
    step = iteration(worker)
    listening = Questions(worker)
    for _ in range(5):
        step(read=True)
    assert listening.asked() == 5


def test_31_an_iteration_that_does_not_read_does_not_wait(connect: Connect) -> None:
    worker = connect("b")
    step = iteration(worker)
    listening = Questions(worker)
    for _ in range(5):
        step(read=False)
    assert listening.asked() == 0


def test_31_the_averaging_round_waits_for_its_moves_and_gets_only(connect: Connect) -> None:
    b, c = connect("b"), connect("c")
    model = nn.Linear(2, 1).send(b)
    listening = Questions(b, c)
    model.move(c)
    assert listening.asked() == 2  # before it dials, and when the other worker has confirmed
    (model.weight.data / 2).get()
    assert listening.asked() == 3


@pytest.mark.e2e
def test_31_with_every_answer_held_back_a_loop_runs_on(three_nodes: Federation) -> None:
    with gated(three_nodes, "b") as (gate, b):
        step = iteration(b)
        step(read=True)
        gate.open.clear()
        turns = gate.turns
        for _ in range(20):
            step(read=False)
        assert gate.turns == turns
        gate.open.set()
        step(read=True)
        step(read=True)
        assert gate.turns == turns + 2


@pytest.mark.e2e
def test_33_a_worker_that_is_killed_is_a_typed_error_and_others_go_on(three_nodes: Federation, tmp_path: Path) -> None:
    with federation(tmp_path, "doomed") as other, three_nodes.connect("b") as b:
        doomed = other.connect("doomed")
        step, ours = iteration(doomed), iteration(b)
        step(read=True)
        ours(read=True)
        step(read=False)
        other.nodes["doomed"].kill()
        for _ in range(3):
            with pytest.raises(NetworkError):
                step(read=True)
        ours(read=True)
        doomed.close()
        ours(read=True)


@pytest.mark.e2e
def test_36_a_native_crash_ends_that_session_only(three_nodes: Federation) -> None:
    node = three_nodes.nodes["b"]
    opened = len(node.executors(opened=0))
    with three_nodes.connect("b") as crashing:
        (executor,) = node.executors(opened=opened + 1)[opened:]
        with three_nodes.connect("b") as other:
            p, q = crashing.ones(2), other.ones(2)
            assert p.sum().get() == q.sum().get() == 2.0
            os.kill(executor, signal.SIGSEGV)
            with pytest.raises(WorkerCrashedError):
                p.sum().get()
            with pytest.raises(CloisterError):
                p.sum().get()
            assert (q + 1).get().tolist() == [2.0, 2.0]
    with three_nodes.connect("b") as anew:
        assert anew.ones(3).sum().get() == 3.0


HOSTILE_INDICES: dict[str, Callable[[Worker], torch.Tensor]] = {
    "max_pool2d backward": lambda w: torch.ops.aten.max_pool2d_with_indices_backward(
        w.ones(1, 1, 2, 2),
        w.ones(1, 1, 4, 4),
        [2, 2],
        [2, 2],
        [0, 0],
        [1, 1],
        False,
        w.full((1, 1, 2, 2), 1 << 40).long(),
    ),
    "nll_loss backward": lambda w: torch.ops.aten.nll_loss_backward(
        w.ones(4), w.zeros(4, 3), w.full((4,), 1 << 40).long(), None, 0, -100, w.ones(())
    ),
    "adaptive_max_pool2d backward": lambda w: torch.ops.aten.adaptive_max_pool2d_backward(
        w.ones(1, 1, 2, 2), w.ones(1, 1, 4, 4), w.full((1, 1, 2, 2), -(1 << 40)).long()
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE_INDICES)
def test_36_a_hostile_index_in_a_backward_op_is_refused(b: Worker, name: str) -> None:
    with pytest.raises(WorkerError):
        HOSTILE_INDICES[name](b).get()
    assert b.ones(3).sum().get() == 3.0
