"""Opening a conversation: a worker that takes longer says so, once, and is waited for so long."""

from __future__ import annotations

import pytest
from msgspec import Struct

from cloister.errors import MessageError, PutOffError, UnreachableError
from cloister.net.connection import Connection, Frame
from cloister.net.handshake_client import greet, refusal_error
from cloister.wire.frames import Kind
from cloister.wire.messages import Refusal, Wait, Welcome, encode

WELCOME = Welcome(version=1, name="bob", memory_bytes=1, objects=1)


class Played(Connection):
    """A worker that answers with these messages. ``waited`` is what it was waited for."""

    def __init__(self, *answers: tuple[Kind, Struct]) -> None:
        self.answers = list(answers)
        self.waited: list[float | None] = []
        self.closed = False

    def send(self, kind: Kind, message: Struct, bodies: object = ()) -> None:
        pass

    def receive(self, *, wait_s: float | None) -> Frame:
        self.waited.append(wait_s)
        kind, message = self.answers.pop(0)
        return Frame(kind, encode(message), 0)

    def close(self) -> None:
        self.closed = True


def opened(worker: Played) -> Welcome:
    return greet(worker, purpose="session", software="tests", wait_s=10.0)


def test_a_worker_that_is_ready_is_waited_for_as_the_caller_says() -> None:
    worker = Played((Kind.WELCOME, WELCOME))
    assert opened(worker) == WELCOME
    assert worker.waited == [10.0]


@pytest.mark.parametrize(("asked", "waited"), [(243, 243), (3, 10.0)])
def test_a_worker_that_takes_longer_is_waited_for_as_long_as_it_says(asked: int, waited: float) -> None:
    worker = Played((Kind.WAIT, Wait(asked)), (Kind.WELCOME, WELCOME))
    assert opened(worker) == WELCOME
    assert worker.waited == [10.0, waited]


def test_nobody_is_kept_waiting_by_one_who_asks_again_and_again() -> None:
    worker = Played((Kind.WAIT, Wait(3600)), (Kind.WAIT, Wait(3600)), (Kind.WELCOME, WELCOME))
    with pytest.raises(MessageError):
        opened(worker)
    assert worker.closed


def test_a_refusal_after_a_wait_is_a_refusal() -> None:
    worker = Played((Kind.WAIT, Wait(5)), (Kind.REFUSAL, Refusal("busy", "full", 0)))
    with pytest.raises(UnreachableError, match="full"):
        opened(worker)


def test_who_is_put_off_knows_for_how_long() -> None:
    fault = refusal_error(Refusal("put-off", "come again", 40))
    assert isinstance(fault, PutOffError)
    assert fault.wait_s == 40
