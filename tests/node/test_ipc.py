"""The link between listener and executor: bytes as they went, bounded memory, and ends that are noticed."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.errors import FrameError
from cloister.node.ipc import INLINE_BYTES, SLOT_BYTES, SLOTS, End, Link, pair
from cloister.wire import sessions as m
from cloister.wire.frames import Kind

MIB = 1 << 20


@pytest.fixture
def ends() -> Iterator[tuple[Link, Link]]:
    here, there = pair()
    links = Link(here), Link(there)
    yield links
    for link in links:
        link.close()


def meanwhile(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def give(link: Link, body: bytes, kind: Kind = Kind.BATCH) -> None:
    link.send(kind, m.Done(), len(body))
    at = 0
    for room in link.buffers(len(body)):
        room[:] = body[at : at + len(room)]
        at += len(room)


def get(link: Link) -> tuple[Kind, bytes]:
    frame = link.receive()
    return frame.kind, b"".join(bytes(piece) for piece in link.pieces(frame.body_bytes))


def bytes_of(lengths: Sequence[int]) -> list[bytes]:
    return [random.Random(n).randbytes(n) for n in lengths]


EDGES = [0, 1, INLINE_BYTES - 1, INLINE_BYTES, INLINE_BYTES + 1, SLOT_BYTES, SLOT_BYTES + 1, SLOTS * SLOT_BYTES + 5]


def test_bodies_of_every_length_both_ways(ends: tuple[Link, Link]) -> None:
    bodies = bytes_of(EDGES)
    for giver, taker in (ends, ends[::-1]):
        thread = meanwhile(lambda giver=giver: [give(giver, body) for body in bodies])  # type: ignore[misc]
        assert [get(taker) for _ in bodies] == [(Kind.BATCH, body) for body in bodies]
        thread.join()


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.one_of(st.sampled_from(EDGES), st.integers(0, 3 * MIB)), max_size=6))
def test_any_bodies_come_as_they_went(lengths: list[int]) -> None:
    here, there = map(Link, pair())
    bodies = bytes_of(lengths)
    thread = meanwhile(lambda: [give(here, body) for body in bodies])  # type: ignore[arg-type,return-value]
    assert [get(there)[1] for _ in bodies] == bodies
    thread.join()
    here.close()
    there.close()


def test_both_ends_may_send_a_large_body_at_once(ends: tuple[Link, Link]) -> None:
    one, two = bytes_of([9 * MIB, 7 * MIB])
    got: list[bytes] = []

    def other() -> None:
        give(ends[1], two[: 3 * MIB])
        got.append(get(ends[1])[1])

    thread = meanwhile(other)
    give(ends[0], one[: 4 * MIB])  # both rings can hold it, so neither waits for the other
    assert get(ends[0])[1] == two[: 3 * MIB]
    thread.join()
    assert got == [one[: 4 * MIB]]


def test_a_skipped_body_leaves_the_link_usable(ends: tuple[Link, Link]) -> None:
    large, small = bytes_of([6 * MIB, 10])
    thread = meanwhile(lambda: (give(ends[0], large), give(ends[0], small)))  # type: ignore[arg-type,return-value]
    ends[1].skip(ends[1].receive().body_bytes)
    assert get(ends[1])[1] == small
    thread.join()


def test_a_header_of_the_greatest_length(ends: tuple[Link, Link]) -> None:
    header = bytes(MIB)
    thread = meanwhile(lambda: ends[0].send(Kind.BATCH, header))
    assert ends[1].receive().header == header
    thread.join()


def test_a_giver_waits_when_the_ring_is_full(ends: tuple[Link, Link]) -> None:
    waited: list[int] = []

    class EnoughError(Exception):
        pass

    def wait(descriptor: int, events: int) -> None:
        waited.append(descriptor)
        raise EnoughError

    ends[0].wait = wait
    ends[0].send(Kind.BATCH, m.Done(), 10 * MIB)
    buffers = ends[0].buffers(10 * MIB)
    for _ in range(SLOTS):
        next(buffers)
    assert not waited
    with pytest.raises(EnoughError):
        next(buffers)
    assert len(waited) == 1


@pytest.mark.parametrize("close", [True, False], ids=["closed", "finished"])
def test_the_end_is_noticed_between_frames_and_after_what_was_sent(ends: tuple[Link, Link], close: bool) -> None:
    give(ends[0], b"last words")
    if close:
        ends[0].close()
    else:
        ends[0].finish()
    assert get(ends[1])[1] == b"last words"
    with pytest.raises(EOFError):
        ends[1].receive()


@pytest.mark.parametrize("close", [True, False], ids=["closed", "finished"])
def test_the_end_is_noticed_within_a_large_body(ends: tuple[Link, Link], close: bool) -> None:
    ends[0].send(Kind.BATCH, m.Done(), 10 * MIB)
    buffers = ends[0].buffers(10 * MIB)
    next(buffers)
    next(buffers)
    if close:
        ends[0].close()
    else:
        ends[0].finish()
    frame = ends[1].receive()
    with pytest.raises(EOFError):
        ends[1].skip(frame.body_bytes)


def test_the_end_is_noticed_by_the_giver(ends: tuple[Link, Link]) -> None:
    ends[1].close()
    with pytest.raises(EOFError):
        give(ends[0], bytes(10 * MIB))


def test_an_end_that_wakes_a_waiting_one(ends: tuple[Link, Link]) -> None:
    noticed = threading.Event()

    def take() -> None:
        with pytest.raises(EOFError):
            ends[1].receive()
        noticed.set()

    thread = meanwhile(take)
    ends[0].close()
    assert noticed.wait(20)
    thread.join()


def test_what_is_no_frame_is_refused(ends: tuple[Link, Link]) -> None:
    ends[0]._write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    with pytest.raises(FrameError):
        ends[1].receive()


@pytest.mark.parametrize("signals", [b"F" * (SLOTS + 1), b"A"])
def test_an_executor_that_claims_too_much_is_cut_off(signals: bytes) -> None:
    here, there = pair()
    link = Link(here)
    there.signals.sendall(signals)
    with pytest.raises(EOFError):
        link.skip(10 * MIB)
    link.close()
    there.close()


def test_an_executor_cannot_cut_the_memory_short() -> None:
    here, there = pair()
    with pytest.raises(PermissionError):
        os.ftruncate(there.memory, 0)
    here.close()
    there.close()


def test_an_end_is_handed_over_by_its_descriptors() -> None:
    here, there = pair()
    copied = [os.dup(number) for number in there.descriptors()]
    adopted = Link(End.adopt(type(there.descriptors())(*copied)))
    there.close()
    link = Link(here)
    thread = meanwhile(lambda: give(link, bytes(2 * MIB)))
    assert get(adopted)[1] == bytes(2 * MIB)
    thread.join()
    link.close()
    adopted.close()
