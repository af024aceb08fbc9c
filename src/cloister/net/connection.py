"""One connection that carries frames: blocking, and with a bound on every wait.

Works over TLS and over Unix sockets. One thread at a time may use a connection: a TLS socket is not made for two. Here,
in ``tls`` and in ``tcp`` the errors of sockets become cloister's, and nowhere else.
"""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final, NamedTuple

from msgspec import Struct

from cloister.errors import ConnectionLostError, NetworkError, NoAnswerError, PeerRefusedError
from cloister.wire.frames import PREFIX_BYTES, Kind, pack_prefix, unpack_prefix
from cloister.wire.limits import CHUNK_BYTES
from cloister.wire.messages import VOCABULARY, Vocabulary, decode, encode

_BUFFER_BYTES: Final = 1 << 16
"""Read ahead, so that a small frame costs one read. Also what is gathered into one write."""


_LINGER_S: Final = 1.0
_LINGER_READS: Final = 1024


class Frame(NamedTuple):
    """A frame whose header has arrived; its body has still to be read or skipped."""

    kind: Kind
    header: bytes
    body_bytes: int

    def message(self, among: Vocabulary = VOCABULARY) -> Any:
        """The header as the message that ``kind`` stands for, of those that this end understands.

        Raises:
            MessageError: it is no such message.
        """
        return decode(self.kind, self.header, among=among)


class Connection:
    """A connected socket, cut into frames.

    Args:
        socket: connected, and used by nobody else from now on.
        peer: the fingerprint that the peer proved, or ``""`` on a Unix socket.
        frame_s: from a frame's first byte to its header's last, in seconds.
        piece_s: for each further MiB of a body that arrives: the slowest pace that is borne with.
        send_s: for each MiB that is sent: how long the peer may be busy with something else than reading.
        refused: for the end that dialled: what to say when the connection ends before one frame has come back.
    """

    def __init__(
        self,
        socket: socket.socket,
        *,
        peer: str = "",
        frame_s: float = 10.0,
        piece_s: float = 30.0,
        send_s: float = 30.0,
        refused: str | None = None,
    ) -> None:
        self.peer = peer
        self._socket = socket
        self._frame_s = frame_s
        self._piece_s = piece_s
        self._send_s = send_s
        self._refused = refused
        self._timeout: float | None = -1.0  # what the socket has now; setting it costs a system call
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._start = self._end = 0  # what has been read ahead
        self._unread = 0  # of the body being received
        self._unsent = 0  # of the body being sent

    # Sending

    def send(self, kind: Kind, message: Struct, bodies: Sequence[memoryview] = ()) -> None:
        """Sends one frame. ``bodies`` are flat views of bytes; large ones go out from where they are.

        Raises:
            LimitError: the message is too long; nothing was sent.
            ConnectionLostError: the connection ended, or the peer reads too slowly.
            PeerRefusedError: it ended before the peer said anything.
        """
        self._between(self._unsent)
        header = encode(message)
        body_bytes = sum(map(len, bodies))
        prefix = pack_prefix(kind, header_bytes=len(header), body_bytes=body_bytes)
        if len(header) + body_bytes <= _BUFFER_BYTES:
            self._write(b"".join((prefix, header, *bodies)))
        else:
            self._write(prefix + header)
            self._send_bodies(bodies)

    def send_raw(self, kind: Kind, header: bytes, body_bytes: int) -> None:
        """Sends a frame's prefix and header as they are; ``body_bytes`` bytes must follow through ``send_body``.

        Raises:
            LimitError, ConnectionLostError, PeerRefusedError: as ``send``.
        """
        self._between(self._unsent)
        self._write(pack_prefix(kind, header_bytes=len(header), body_bytes=body_bytes) + header)
        self._unsent = body_bytes

    def send_body(self, view: memoryview) -> None:
        """Sends the next part of the body that ``send_raw`` announced.

        Raises:
            ConnectionLostError, PeerRefusedError: as ``send``.
        """
        if len(view) > self._unsent:
            raise RuntimeError(f"{len(view)} bytes for a body that lacks {self._unsent}")
        for at in range(0, len(view), CHUNK_BYTES):
            self._write(view[at : at + CHUNK_BYTES])
        self._unsent -= len(view)

    def _send_bodies(self, bodies: Sequence[memoryview]) -> None:
        """Gathers neighbouring small ones into one write: a model has many of them."""
        small: list[memoryview] = []
        gathered = 0
        for body in bodies:
            if gathered + len(body) > _BUFFER_BYTES and small:
                self._write(b"".join(small))
                small, gathered = [], 0
            if len(body) > _BUFFER_BYTES:
                for at in range(0, len(body), CHUNK_BYTES):
                    self._write(body[at : at + CHUNK_BYTES])
            else:
                small.append(body)
                gathered += len(body)
        if gathered:
            self._write(b"".join(small))

    # Receiving

    def receive(self, *, wait_s: float | None) -> Frame:
        """The next frame's kind, header and length of body. ``wait_s`` bounds the wait for its first byte.

        Raises:
            NoAnswerError: nothing came within ``wait_s``; the connection stays usable.
            FrameError, LimitError, VersionError: not a frame; the connection can be written to and not read any more.
            ConnectionLostError: the connection ended, or the frame came too slowly.
            PeerRefusedError: it ended before the peer said anything.
        """
        self._between(self._unread)
        if self._start == self._end:
            self._await(wait_s)
        deadline = monotonic() + self._frame_s
        kind, header_bytes, body_bytes = unpack_prefix(self._take(PREFIX_BYTES, deadline))
        header = bytes(self._take(header_bytes, deadline))
        self._unread = body_bytes
        self._refused = None
        return Frame(kind, header, body_bytes)

    def read_into(self, view: memoryview, *, until: float = math.inf) -> None:
        """Fills ``view`` (flat, of bytes) with the next bytes of the body, by the moment ``until`` (``monotonic``).

        Raises:
            ConnectionLostError: the connection ended, or its bytes come too slowly.
        """
        total = len(view)
        if total > self._unread:
            raise RuntimeError(f"{total} bytes of a body that has {self._unread} left")
        done = min(total, self._end - self._start)
        view[:done] = self._buffer[self._start : self._start + done]
        self._start += done
        while done < total:
            piece = view[done : done + CHUNK_BYTES]
            self._read_exactly(piece, min(monotonic() + self._piece_s, until))
            done += len(piece)
        self._unread -= total

    def skip(self, nbytes: int) -> None:
        """Reads and forgets the next ``nbytes`` bytes of the body, so that the connection stays usable.

        Raises:
            ConnectionLostError: as ``read_into``.
        """
        scratch = memoryview(bytearray(min(nbytes, _BUFFER_BYTES)))
        while nbytes:
            part = scratch[:nbytes]
            self.read_into(part)
            nbytes -= len(part)

    def _await(self, wait_s: float | None) -> None:
        self._start = self._end = 0
        self._set_timeout(None if wait_s is None else max(wait_s, 0.001))  # 0 would mean: do not wait for TLS either
        try:
            self._end = self._read(self._buffer)
        except TimeoutError:
            raise NoAnswerError(f"nothing came within {wait_s:g} s") from None

    def _take(self, nbytes: int, deadline: float) -> memoryview | bytearray:
        """The next ``nbytes`` bytes, by ``deadline``. Valid until the next call."""
        if self._end - self._start < nbytes:
            if nbytes > _BUFFER_BYTES:
                return self._take_long(nbytes, deadline)
            self._gather(nbytes, deadline)
        start = self._start
        self._start += nbytes
        return self._buffer[start : self._start]

    def _gather(self, nbytes: int, deadline: float) -> None:
        held = bytes(self._buffer[self._start : self._end])
        self._start, self._end = 0, len(held)
        self._buffer[: self._end] = held
        while self._end < nbytes:
            try:
                self._set_timeout(max(deadline - monotonic(), 0.001))
                self._end += self._read(self._buffer[self._end :])
            except TimeoutError:
                raise self._too_slow("a frame", self._frame_s) from None
            if self._end < nbytes and monotonic() > deadline:
                raise self._too_slow("a frame", self._frame_s)

    def _take_long(self, nbytes: int, deadline: float) -> bytearray:
        data = bytearray(nbytes)
        held = self._end - self._start
        data[:held] = self._buffer[self._start : self._end]
        self._start = self._end = 0
        self._read_exactly(memoryview(data)[held:], deadline)
        return data

    def _read_exactly(self, view: memoryview, deadline: float) -> None:
        """The hot loop: TLS gives at most 16 KiB at a time. The socket's time-out is set once, so the last read may end
        one time-out after the deadline."""
        budget = max(deadline - monotonic(), 0.001)
        self._set_timeout(budget)
        done, total = 0, len(view)
        read = self._socket.recv_into
        try:
            while done < total:
                count = read(view[done:])
                if not count:
                    raise self._lost(None)
                done += count
                if done < total and monotonic() > deadline:
                    raise self._too_slow("a frame's body", budget)
        except TimeoutError as fault:
            if fault.errno is not None:
                raise self._lost(fault) from fault
            raise self._too_slow("a frame's body", budget) from None
        except OSError as fault:
            raise self._lost(fault) from fault

    # The socket

    def fileno(self) -> int:
        """The socket's descriptor, for waiting; ask ``pending`` first."""
        return self._socket.fileno()

    def pending(self) -> int:
        """How many bytes have been read ahead: what a wait on the descriptor would not see."""
        held = self._end - self._start
        return held + self._socket.pending() if isinstance(self._socket, ssl.SSLSocket) else held

    def close(self) -> None:
        """Ends the connection. May be called twice."""
        self._socket.close()

    def interrupt(self) -> None:
        """Ends the connection from another thread: the one that uses it finds it lost. That one closes it."""
        shut(self._socket)

    def farewell(self, kind: Kind, message: Struct) -> None:
        """Sends a last frame without a body and ends the connection so that the frame arrives; takes at most a second.

        A socket that is closed while bytes lie unread resets the connection, and that can overtake the last frame.
        """
        try:
            if not self._unsent:
                self.send(kind, message)
                socket.socket.shutdown(self._socket, socket.SHUT_WR)
                self._drain(monotonic() + _LINGER_S)
        except (OSError, NetworkError):
            pass  # the peer is gone, and nothing is left to tell it
        finally:
            self.close()

    def _drain(self, deadline: float) -> None:
        for _ in range(_LINGER_READS):
            self._set_timeout(max(deadline - monotonic(), 0.001))
            # Below TLS: what arrives now is not read, only taken away.
            if not socket.socket.recv_into(self._socket, self._buffer) or monotonic() > deadline:
                return

    def _read(self, view: memoryview) -> int:
        try:
            count = self._socket.recv_into(view)
        except OSError as fault:
            if isinstance(fault, TimeoutError) and fault.errno is None:
                raise  # ours; the kernel's own, when a peer has vanished, has a number
            raise self._lost(fault) from fault
        if not count:
            raise self._lost(None)
        return count

    def _write(self, data: bytes | memoryview) -> None:
        self._set_timeout(self._send_s)
        try:
            self._socket.sendall(data)
        except OSError as fault:
            if isinstance(fault, TimeoutError) and fault.errno is None:
                self.close()
                raise ConnectionLostError(f"the other end has read nothing for {self._send_s:g} s") from None
            raise self._lost(self._alert() or fault) from fault

    def _alert(self) -> ssl.SSLError | None:
        """A TLS alert that explains a broken write: it was sent before the connection ended, and lies unread."""
        try:
            self._socket.setblocking(False)
            self._socket.recv_into(self._buffer)
        except ssl.SSLError as fault:
            return fault if "ALERT" in (fault.reason or "") else None
        except OSError:
            pass
        return None

    def _set_timeout(self, seconds: float | None) -> None:
        if seconds == self._timeout:
            return
        try:
            self._socket.settimeout(seconds)
        except OSError as fault:  # closed
            raise self._lost(fault) from None
        self._timeout = seconds

    def _too_slow(self, what: str, seconds: float) -> ConnectionLostError:
        self.close()
        return ConnectionLostError(f"{what} did not arrive within {seconds:g} s")

    def _lost(self, fault: OSError | None) -> NetworkError:
        if self._socket.fileno() == -1:
            return ConnectionLostError("the connection is closed")
        self.close()
        if self._refused is not None:
            return PeerRefusedError(self._refused + _explain(fault))
        if fault is None or isinstance(fault, ssl.SSLEOFError | ConnectionError):
            return ConnectionLostError("the other end closed the connection")
        return ConnectionLostError(f"the connection is lost: {fault.strerror or fault}")

    @staticmethod
    def _between(left: int) -> None:
        if left:
            raise RuntimeError(f"the frame before lacks {left} bytes of its body")


def shut(connected: socket.socket) -> None:
    """Ends a connection under the thread that uses it. That thread finds it lost, and closes it."""
    with contextlib.suppress(OSError):  # closed already
        # Not SSLSocket.shutdown, which takes the TLS state away under the other thread's feet.
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


def _explain(fault: OSError | None) -> str:
    reason = fault.reason if isinstance(fault, ssl.SSLError) else None
    return f" (it says: {reason.lower().replace('_', ' ')})" if reason and "ALERT" in reason else ""
