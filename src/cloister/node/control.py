"""How a node's owner speaks to the node that runs: a Unix socket beside its identity, for this machine alone.

One line of JSON is asked and one is answered, each within its bounds, and the connection ends. Whoever may connect can
end sessions: the socket has mode 0600, and the kernel says which user is at the other end (SO_PEERCRED, unix(7)).
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Final, TypeVar

import msgspec

from cloister.errors import ConfigurationError
from cloister.net.polling import READABLE, Wakeup, wait
from cloister.node.running import Account, Running

_log: Final = logging.getLogger(__name__)
_ASKED_BYTES: Final = 4096
_ANSWERED_BYTES: Final = 1 << 20
_TAKES_S: Final = 5.0
"""How long one who asks may take, in seconds."""
_ASKS_S: Final = 30.0
"""How long one who asks waits, who may not be the first."""
_START: Final = "start one with: cloister node serve"
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid


class Show(msgspec.Struct, tag="sessions", frozen=True, forbid_unknown_fields=True):
    """Which sessions run? Answered by ``Sessions``."""


class End(msgspec.Struct, tag="end", frozen=True, forbid_unknown_fields=True):
    """End this session. Answered by ``Done``."""

    session: int


class Sessions(msgspec.Struct, tag="sessions", frozen=True, forbid_unknown_fields=True):
    """All that run."""

    accounts: tuple[Account, ...]


class Done(msgspec.Struct, tag="done", frozen=True, forbid_unknown_fields=True):
    """It is done."""


class Fault(msgspec.Struct, tag="fault", frozen=True, forbid_unknown_fields=True):
    """It cannot be done, and why."""

    text: str


_ASKED: Final = msgspec.json.Decoder(Show | End)
_ANSWERED: Final = msgspec.json.Decoder(Sessions | Done | Fault)
T = TypeVar("T")


class Control:
    """The node's end. ``serve`` is for a thread of its own; it answers one after the other.

    Raises:
        OSError: the socket cannot be made there.
    """

    def __init__(self, path: Path, running: Running, *, closing: Wakeup) -> None:
        self._path = path
        self._running = running
        self._closing = closing
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            with _short(path) as short:
                # Nobody can connect to it before it listens, and then it is its owner's alone. It takes the place of
                # one that a node left which was killed.
                made = f"{short}.{os.getpid()}"
                self._socket.bind(made)
                os.chmod(made, 0o600)
                self._socket.listen(4)
                os.rename(made, short)
            self._made = os.stat(path).st_ino
        except BaseException:
            self._socket.close()
            raise

    def serve(self) -> None:
        """Answers until the node closes."""
        while True:
            happened = wait({self._socket.fileno(): READABLE, self._closing.fileno(): READABLE}, until=None)
            if self._closing.fileno() in happened:
                return
            with suppress(OSError):  # whoever asked has left
                connected, _ = self._socket.accept()
                with connected:
                    self._answer(connected)

    def close(self) -> None:
        """Takes the socket away, unless another node has put its own there."""
        self._socket.close()
        with suppress(OSError):
            if os.stat(self._path).st_ino == self._made:
                self._path.unlink()

    def _answer(self, connected: socket.socket) -> None:
        _, user, _ = _CREDENTIALS.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if user not in (os.geteuid(), 0):
            _log.warning("user %d may not control this node", user)
            return
        until = monotonic() + _TAKES_S
        try:
            answer = self._do(_ASKED.decode(_receive(connected, most=_ASKED_BYTES, until=until)))
        except msgspec.MsgspecError:
            answer = Fault("this is nothing that can be asked; both ends have to be of the same version of cloister")
        _send(connected, msgspec.json.encode(answer), until=until)

    def _do(self, asked: Show | End) -> Sessions | Done | Fault:
        match asked:
            case End(number):
                return Done() if self._running.end(number) else Fault(f"there is no session {number}")
            case Show():
                return Sessions(tuple(self._running.accounts()))


def sessions(path: Path) -> tuple[Account, ...]:
    """The sessions that run on the node whose socket this is.

    Raises:
        ConfigurationError: no node listens there, or it is not ours to control.
    """
    return _ask(path, Show(), Sessions).accounts


def end(path: Path, session: int) -> None:
    """Has the node end a session, by its number.

    Raises:
        ConfigurationError: as ``sessions``; or there is no such session.
    """
    _ask(path, End(session), Done)


def _ask(path: Path, asked: Show | End, expected: type[T]) -> T:
    until = monotonic() + _ASKS_S
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connected, _short(path) as short:
            connected.settimeout(_ASKS_S)
            connected.connect(short)
            _send(connected, msgspec.json.encode(asked), until=until)
            answer = _ANSWERED.decode(_receive(connected, most=_ANSWERED_BYTES, until=until))
    except (FileNotFoundError, ConnectionRefusedError):
        raise ConfigurationError(f"no node runs here: nobody listens at {path}; {_START}") from None
    except (OSError, msgspec.MsgspecError) as fault:
        reason = fault.strerror or "no answer" if isinstance(fault, OSError) else "its answer cannot be read"
        raise ConfigurationError(f"the node at {path} cannot be asked: {reason}") from None
    if isinstance(answer, Fault):
        raise ConfigurationError(answer.text)
    if not isinstance(answer, expected):
        raise ConfigurationError(f"the node at {path} answers something else than was asked")
    return answer


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A path of few characters to the same place: a Unix socket's has 107 at most (unix(7))."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _send(connected: socket.socket, data: bytes, *, until: float) -> None:
    connected.settimeout(max(until - monotonic(), 0.001))
    connected.sendall(data + b"\n")


def _receive(connected: socket.socket, *, most: int, until: float) -> bytes:
    """One line, without its end.

    Raises:
        OSError: it does not come in time, is too long, or breaks off.
    """
    data = bytearray()
    while not data.endswith(b"\n"):
        connected.settimeout(max(until - monotonic(), 0.001))
        more = connected.recv(1 << 16)
        data += more
        if not more or len(data) > most:
            raise ConnectionError("no line of a permitted length")
    return bytes(data)
