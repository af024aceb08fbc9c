"""The link between a node's listener and one of its executors: frames through a socket, large bodies through shared
memory.

Small things, prefixes and headers and bodies up to 64 KiB, go through a stream socket. A larger body goes through a
ring of four slots of 1 MiB in memory that both processes map, one ring for each direction: the listener decrypts
straight into a slot while the executor copies the slot before into its tensor, so that two cores share the work and
nothing is copied on the way. A second socket carries one byte for every slot filled and one for every slot given back;
slots are used in turn, so these bytes say no more than "one more". What a slot holds follows from the length of the
body. Behind the rings a few words say what the executor is at (``cloister.node.slate``).

The listener does not trust its executor: lengths come from frames that it has read itself, a byte too many ends the
link, and the memory is sealed, so that it cannot be cut short under the listener's feet.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from msgspec import Struct

from cloister.net.connection import Frame
from cloister.net.polling import READABLE, WRITABLE
from cloister.net.polling import wait as wait_for
from cloister.node.slate import WORD_BYTES, WORDS, Slate
from cloister.wire.frames import PREFIX_BYTES, Kind, pack_prefix, unpack_prefix
from cloister.wire.limits import CHUNK_BYTES
from cloister.wire.messages import encode

SLOTS: Final = 4
SLOT_BYTES: Final = CHUNK_BYTES
INLINE_BYTES: Final = 1 << 16
_RING_BYTES: Final = SLOTS * SLOT_BYTES
_MEMORY_BYTES: Final = 2 * _RING_BYTES + WORDS * WORD_BYTES
_FILLED: Final = b"F"
_FREED: Final = b"A"

Wait = Callable[[int, int], None]
"""Returns when the descriptor is ready for what is asked (``READABLE``, ``WRITABLE``); raises when it has waited
enough."""


class Descriptors(NamedTuple):
    """One end of a link, as it is handed to a new process."""

    frames: int
    signals: int
    memory: int


class End:
    """One end of a link that nobody uses yet."""

    def __init__(self, frames: socket.socket, signals: socket.socket, memory: int, *, listener: bool) -> None:
        self.frames = frames
        self.signals = signals
        self.memory = memory
        self.listener = listener

    @classmethod
    def adopt(cls, descriptors: Descriptors) -> End:
        """The executor's end, in the process that has inherited it."""
        return cls(
            socket.socket(fileno=descriptors.frames),
            socket.socket(fileno=descriptors.signals),
            descriptors.memory,
            listener=False,
        )

    def descriptors(self) -> Descriptors:
        return Descriptors(self.frames.fileno(), self.signals.fileno(), self.memory)

    def close(self) -> None:
        self.frames.close()
        self.signals.close()
        os.close(self.memory)


def pair() -> tuple[End, End]:
    """A link's two ends: the listener's and the executor's."""
    memory = os.memfd_create("cloister-link", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(memory, _MEMORY_BYTES)
        # A process that shrinks memory which another has mapped kills it (SIGBUS).
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        here, there = socket.socketpair(), socket.socketpair()
        return (
            End(here[0], there[0], os.dup(memory), listener=True),
            End(here[1], there[1], os.dup(memory), listener=False),
        )
    finally:
        os.close(memory)


def wait_alone(descriptor: int, events: int) -> None:
    """Waits for one descriptor, as long as it takes. For executors, which end with their listener in any case."""
    wait_for({descriptor: events}, until=None)


class Link:
    """One end of a link in use, by one thread at a time. Everything here raises ``EOFError`` when the other end is
    gone.

    ``wait`` is called whenever there is nothing to do but wait; what it raises comes out of the method that waited, and
    the link is of no use afterwards but to be closed.
    """

    def __init__(self, end: End, *, wait: Wait = wait_alone) -> None:
        self.wait = wait
        self._frames, self._signals = end.frames, end.signals
        self._frames.setblocking(False)
        self._signals.setblocking(False)
        memory = memoryview(mmap.mmap(end.memory, _MEMORY_BYTES))
        os.close(end.memory)
        halves = memory[:_RING_BYTES], memory[_RING_BYTES : 2 * _RING_BYTES]
        self.slate = Slate(memory[2 * _RING_BYTES :])
        self._out, self._in = halves if end.listener else halves[::-1]
        self._free, self._filled = SLOTS, 0
        self._next_out = self._next_in = 0
        self._buffer = memoryview(bytearray(2 * INLINE_BYTES))
        self._start = self._end = 0  # what has been read ahead
        self._scratch = memoryview(bytearray(INLINE_BYTES))
        self._owing = False  # a part of a body
        self._held_back = b""  # a header whose small body goes out in the same write

    def fileno(self) -> int:
        """For waiting until a frame comes or the other end goes. Exact only between frames."""
        return self._frames.fileno()

    def send(self, kind: Kind, message: Struct | bytes, body_bytes: int = 0) -> None:
        """Sends a frame's prefix and header. A body must follow through ``rooms``."""
        header = message if isinstance(message, bytes) else encode(message)
        data = pack_prefix(kind, header_bytes=len(header), body_bytes=body_bytes) + header
        if 0 < body_bytes <= INLINE_BYTES:
            self._held_back = data
        else:
            self._write(data)

    def buffers(self, body_bytes: int) -> Iterator[memoryview]:
        """Memory to put the body into, piece by piece; each is on its way when the next is asked for."""
        if 0 < body_bytes <= INLINE_BYTES:
            room = self._scratch[:body_bytes]
            yield room
            self._write(b"".join((self._held_back, room)))
            return
        self._owing = body_bytes > 0
        while body_bytes:
            while not self._free:
                self._collect()
            room = self._out[self._next_out :][: min(SLOT_BYTES, body_bytes)]
            yield room
            self._free -= 1
            self._next_out = (self._next_out + SLOT_BYTES) % _RING_BYTES
            body_bytes -= len(room)
            self._owing = body_bytes > 0
            self._signal(_FILLED)

    def receive(self) -> Frame:
        """The next frame. Its body must be taken through ``pieces``.

        Raises:
            FrameError, LimitError, VersionError: the other end does not keep to the protocol.
        """
        kind, header_bytes, body_bytes = unpack_prefix(self._take(PREFIX_BYTES))
        return Frame(kind, bytes(self._take(header_bytes)), body_bytes)

    def pieces(self, body_bytes: int) -> Iterator[memoryview]:
        """The body, piece by piece; each is valid until the next is asked for."""
        if 0 < body_bytes <= INLINE_BYTES:
            yield self._take(body_bytes)
            return
        while body_bytes:
            while not self._filled:
                self._collect()
            piece = self._in[self._next_in :][: min(SLOT_BYTES, body_bytes)]
            yield piece
            self._filled -= 1
            self._next_in = (self._next_in + SLOT_BYTES) % _RING_BYTES
            body_bytes -= len(piece)
            self._signal(_FREED)

    def skip(self, body_bytes: int) -> None:
        """Takes a body and forgets it."""
        for _ in self.pieces(body_bytes):
            pass

    def finish(self) -> None:
        """Says that no more comes; the other end reads what is on its way, to the middle of a frame if need be, and
        then gets ``EOFError``."""
        with suppress(OSError):  # it is gone already
            self._frames.shutdown(socket.SHUT_WR)
            if self._owing:
                self._signals.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Ends the link. May be called twice."""
        self._frames.close()
        self._signals.close()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._frames.send(view) :]
            except BlockingIOError:
                self.wait(self._frames.fileno(), WRITABLE)
            except OSError as fault:
                raise _ended() from fault

    def _take(self, nbytes: int) -> memoryview:
        """The next ``nbytes`` bytes from the socket, valid until the next call."""
        if self._end - self._start < nbytes:
            held = self._buffer[self._start : self._end].tobytes()
            if nbytes > len(self._buffer):
                self._buffer = memoryview(bytearray(nbytes))
            self._start, self._end = 0, len(held)
            self._buffer[: self._end] = held
            while self._end < nbytes:
                self._end += self._read(self._buffer[self._end :])
        self._start += nbytes
        return self._buffer[self._start - nbytes : self._start]

    def _read(self, view: memoryview) -> int:
        while True:
            try:
                count = self._frames.recv_into(view)
            except BlockingIOError:
                self.wait(self._frames.fileno(), READABLE)
                continue
            except OSError as fault:
                raise _ended() from fault
            if not count:
                raise _ended()
            return count

    def _signal(self, signal: bytes) -> None:
        try:
            self._signals.send(signal)
        except OSError as fault:
            # Full is as good as gone: at most a ring's worth of bytes is ever on its way to an honest other end.
            raise _ended() from fault

    def _collect(self) -> None:
        """Waits for at least one slot to be filled or freed by the other end."""
        while True:
            try:
                signals = self._signals.recv(4 * SLOTS)
                break
            except BlockingIOError:
                self.wait(self._signals.fileno(), READABLE)
            except OSError as fault:
                raise _ended() from fault
        self._filled += signals.count(_FILLED)
        self._free += signals.count(_FREED)
        if not signals or self._filled > SLOTS or self._free > SLOTS:
            raise _ended()


def fill(buffers: Iterable[memoryview], views: Iterable[bytes | memoryview]) -> None:
    """Copies views, one after the other, into rooms that together are as long."""
    sources = (memoryview(view) for view in views)
    source = memoryview(b"")
    for room in buffers:
        filled = 0
        while filled < len(room):
            if not source:
                source = next(sources)
                continue
            part = min(len(source), len(room) - filled)
            room[filled : filled + part] = source[:part]
            source = source[part:]
            filled += part


def _ended() -> EOFError:
    return EOFError("the other end of the link is gone")
