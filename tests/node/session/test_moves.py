"""Values from worker to worker: two listeners' parts and two executors' parts, each in a thread."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

import pytest
import torch

from cloister.errors import MoveError, UnreachableError
from cloister.net.connection import Connection, Frame
from cloister.net.polling import Wakeup
from cloister.node.ipc import Link, pair
from cloister.node.session import moves
from cloister.node.session.executor_process import Courier
from cloister.node.session.moves import Arrival, Mover, Rendezvous, receive_push
from cloister.wire import sessions as m
from cloister.wire.frames import Kind
from cloister.wire.messages import encode
from cloister.worker.values import spec_of

BOB, ALICE, MALLORY = ("sha256:" + digit * 64 for digit in "bac")
TICKET = bytes(32)


class Net:
    """A node that others push to, as they dial it: connections are socket pairs, and peers are who they say."""

    def __init__(self, *, move_wait_s: float = 20.0) -> None:
        self.rendezvous = Rendezvous()
        self.closing = Wakeup()
        self.move_wait_s = move_wait_s
        self.threads: list[threading.Thread] = []
        self.pushers: list[Connection] = []

    def dialled_by(self, peer: str) -> Connection:
        here, there = socket.socketpair()
        accepted = Connection(here, peer=peer)

        def serve() -> None:
            try:
                receive_push(accepted, rendezvous=self.rendezvous, move_wait_s=self.move_wait_s, closing=self.closing)
            except Exception as fault:  # noqa: BLE001
                self.faults.append(fault)
            finally:
                accepted.close()

        self.faults: list[Exception] = []
        self.threads.append(threading.Thread(target=serve, daemon=True))
        self.threads[-1].start()
        self.pushers.append(Connection(there))
        return self.pushers[-1]

    def join(self) -> None:
        self.closing.set()
        for connection in self.pushers:
            connection.close()
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()


@contextmanager
def session(net: Net, *, dial: Callable[[str], Connection]) -> Iterator[tuple[Courier, Link]]:
    here, there = pair()
    mover = Mover(Link(here), dial=dial, rendezvous=net.rendezvous, move_wait_s=net.move_wait_s, closing=net.closing)
    thread = threading.Thread(target=mover.run, daemon=True)
    thread.start()
    link = Link(there)
    yield Courier(link), link
    link.close()
    mover.stop()
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def net() -> Iterator[Net]:
    net = Net()
    yield net
    net.join()


def nowhere(peer: str) -> Connection:
    raise UnreachableError(f"{peer[:9]} cannot be reached")


def tensors() -> list[torch.Tensor]:
    return [torch.randn(700, 1000), torch.arange(5), torch.tensor([True, False]), torch.zeros(0, 3), torch.tensor(2.5)]


def take(courier: Courier, like: list[torch.Tensor], peer: str = BOB, ticket: bytes = TICKET) -> list[torch.Tensor]:
    into = [torch.empty_like(tensor) for tensor in like]
    courier.take(peer, ticket, [spec_of(tensor) for tensor in like], into)
    return into


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    results: list[object] = []

    def run() -> None:
        try:
            results.append(work())
        except MoveError as fault:
            results.append(fault)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, results


def test_who_declines_is_heard_by_who_pushes(net: Net) -> None:
    with session(net, dial=lambda _: net.dialled_by(BOB)) as (bob, _), session(net, dial=nowhere) as (alice, _):
        thread, _ = in_thread(lambda: alice.decline(BOB, TICKET, "no room for it"))
        with pytest.raises(MoveError, match="no room for it"):
            bob.push(ALICE, TICKET, tensors())
        thread.join()


@pytest.mark.parametrize("first", ["push", "take"])
def test_values_arrive_whoever_comes_first(net: Net, first: str) -> None:
    sent = tensors()
    with session(net, dial=lambda _: net.dialled_by(BOB)) as (bob, _), session(net, dial=nowhere) as (alice, _):
        ways = {"push": lambda: bob.push(ALICE, TICKET, sent), "take": lambda: take(alice, sent)}
        thread, results = in_thread(ways[first])  # type: ignore[arg-type]
        while not net.rendezvous._meetings:
            os.sched_yield()
        other = ways["take" if first == "push" else "push"]()  # type: ignore[no-untyped-call,func-returns-value]
        thread.join(20)
        received = other if first == "push" else results[0]
        assert all(torch.equal(a, b) for a, b in zip(sent, received, strict=True))  # type: ignore[call-overload]
        assert not net.rendezvous._meetings


def test_several_moves_one_after_the_other(net: Net) -> None:
    with session(net, dial=lambda _: net.dialled_by(BOB)) as (bob, _), session(net, dial=nowhere) as (alice, _):
        for number in range(4):
            ticket, sent = bytes([number]) * 32, [torch.full((3,), number)]
            thread, results = in_thread(lambda ticket=ticket, sent=sent: bob.push(ALICE, ticket, sent))  # type: ignore[misc]
            assert torch.equal(take(alice, sent, ticket=ticket)[0], sent[0])
            thread.join(20)
            assert results == [None]


def test_a_peer_that_cannot_be_reached_is_a_move_error_and_the_next_works(net: Net) -> None:
    reachable = iter([False, True])

    def dial(peer: str) -> Connection:
        return net.dialled_by(BOB) if next(reachable) else nowhere(peer)

    with session(net, dial=dial) as (bob, _), session(net, dial=nowhere) as (alice, _):
        with pytest.raises(MoveError, match="cannot be reached"):
            bob.push(ALICE, TICKET, tensors())
        thread, _ = in_thread(lambda: bob.push(ALICE, TICKET, [torch.ones(2)]))
        assert take(alice, [torch.ones(2)])[0].tolist() == [1, 1]
        thread.join(20)


def test_values_of_another_shape_are_declined_on_both_sides(net: Net) -> None:
    with session(net, dial=lambda _: net.dialled_by(BOB)) as (bob, _), session(net, dial=nowhere) as (alice, _):
        thread, results = in_thread(lambda: bob.push(ALICE, TICKET, [torch.ones(300_000)]))
        with pytest.raises(MoveError, match="other shapes"):
            take(alice, [torch.ones(300_001)])
        thread.join(20)
        assert isinstance(results[0], MoveError)
        assert "other shapes" in str(results[0])


def test_bools_that_are_none_are_declined(net: Net) -> None:
    with session(net, dial=lambda _: net.dialled_by(BOB)) as (bob, _), session(net, dial=nowhere) as (alice, _):
        wrong = torch.tensor([7], dtype=torch.uint8).view(torch.bool)
        thread, results = in_thread(lambda: bob.push(ALICE, TICKET, [wrong]))
        with pytest.raises(MoveError, match="other than 0 and 1"):
            take(alice, [torch.tensor([True])])
        thread.join(20)
        assert isinstance(results[0], MoveError)


def test_a_push_that_nobody_takes_and_a_take_that_nobody_pushes_end_in_time() -> None:
    net = Net(move_wait_s=0.05)
    with session(net, dial=lambda _: net.dialled_by(BOB)) as (bob, _), session(net, dial=nowhere) as (alice, _):
        with pytest.raises(MoveError, match="took the values in time"):
            bob.push(ALICE, TICKET, [torch.ones(3)])
        with pytest.raises(MoveError, match="did not send the values in time"):
            take(alice, [torch.ones(3)])
        assert not net.rendezvous._meetings
    net.join()


@pytest.mark.slow
def test_neither_the_wrong_peer_nor_the_wrong_ticket_is_let_in() -> None:
    net = Net(move_wait_s=0.3)
    with session(net, dial=lambda _: net.dialled_by(MALLORY)) as (mallory, _), session(net, dial=nowhere) as (alice, _):
        thread, results = in_thread(lambda: take(alice, [torch.ones(3)]))
        with pytest.raises(MoveError):
            mallory.push(ALICE, TICKET, [torch.ones(3)])
        thread.join(20)
        assert isinstance(results[0], MoveError)
    net.join()


def test_a_ticket_serves_one_session(net: Net) -> None:
    with session(net, dial=nowhere) as (alice, _), session(net, dial=nowhere) as (eve, _):
        thread, results = in_thread(lambda: take(alice, [torch.ones(3)]))
        while not net.rendezvous._meetings:
            os.sched_yield()
        with pytest.raises(MoveError, match="already"):
            take(eve, [torch.ones(3)])
        net.closing.set()
        thread.join(20)
        assert isinstance(results[0], MoveError)


def test_pushes_that_wait_are_counted(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "WAITING_PER_PEER", 2)
    waiting = []
    for number in range(2):
        pusher = net.dialled_by(BOB)
        pusher.send(Kind.PUSH, m.Delivery(bytes([number]) * 32, ()))
        waiting.append(pusher)
    while len(net.rendezvous._meetings) < 2:
        os.sched_yield()
    third = net.dialled_by(BOB)
    third.send(Kind.PUSH, m.Delivery(bytes([9]) * 32, ()))
    assert "wait already" in third.receive(wait_s=20).message(m.VOCABULARY).text
    other = net.dialled_by(MALLORY)
    other.send(Kind.PUSH, m.Delivery(bytes([9]) * 32, ()))
    while len(net.rendezvous._meetings) < 3:
        os.sched_yield()
    for pusher in [*waiting, other]:  # one that leaves gives its place back
        pusher.close()
    while net.rendezvous._meetings:
        os.sched_yield()


def test_a_pusher_that_breaks_off_leaves_the_taking_session_whole(net: Net) -> None:
    with session(net, dial=lambda _: net.dialled_by(BOB)) as (bob, _), session(net, dial=nowhere) as (alice, _):
        broken = net.dialled_by(BOB)
        like = torch.ones(2_000_000)
        broken.send_raw(Kind.PUSH, encode(m.Delivery(TICKET, (spec_of(like),))), like.nbytes)
        thread, results = in_thread(lambda: take(alice, [like]))
        broken.send_body(memoryview(bytes(3_000_000)))
        broken.close()
        thread.join(20)
        assert isinstance(results[0], MoveError)
        assert "stopped arriving" in str(results[0])
        thread, _ = in_thread(lambda: bob.push(ALICE, TICKET, [torch.ones(2)]))
        assert take(alice, [torch.ones(2)])[0].tolist() == [1, 1]
        thread.join(20)


def test_a_session_that_dies_over_a_take_tells_the_pusher(net: Net) -> None:
    with session(net, dial=lambda _: net.dialled_by(BOB)) as (bob, _), session(net, dial=nowhere) as (_, link):
        thread, results = in_thread(lambda: bob.push(ALICE, TICKET, [torch.ones(3_000_000)]))
        link.send(Kind.AWAIT, m.Await(BOB, TICKET))
        link.receive()
        link.close()
        thread.join(20)
        assert "has ended" in str(results[0])


def test_a_session_that_dies_over_a_push_ends_it(net: Net) -> None:
    with session(net, dial=lambda _: net.dialled_by(BOB)) as (_, link):
        link.send(Kind.DIAL, m.Dial(ALICE))
        assert link.receive().kind is Kind.ANSWER
        link.send(Kind.PUSH, m.Delivery(TICKET, (spec_of(torch.ones(3)),)), 12)
        link.close()


def test_what_is_no_push_is_not_waited_for(net: Net) -> None:
    pusher = net.dialled_by(BOB)
    pusher.send(Kind.BATCH, m.Batch([]))
    net.threads[-1].join(20)
    assert "no place" in str(net.faults[0])


def test_a_take_ends_when_its_session_does(net: Net) -> None:
    here, there = socket.socketpair()
    there.close()
    with pytest.raises(MoveError):
        net.rendezvous.expect(BOB, TICKET, until=monotonic() + 20, unless=(here.fileno(),))
    assert not net.rendezvous._meetings
    arrival = Arrival(Connection(here), Frame(Kind.PUSH, b"", 0))
    with pytest.raises(MoveError):
        net.rendezvous.bring(BOB, TICKET, arrival, until=monotonic() + 20, unless=net.closing.fileno())
    arrival.connection.close()
