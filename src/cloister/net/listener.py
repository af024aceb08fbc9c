"""A listener: shakes hands with whoever connects, and gives each known peer's connection a thread of its own.

What a stranger can hold is bounded: a place at the door, for one handshake's time, and not that if others need it
(``door``). Then it is closed on, and nothing was read from it or sent to it. And every known peer has connections that
no other can take (``shares``). So a known peer gets in, whatever others do.
"""

from __future__ import annotations

import logging
import resource
import ssl
import threading
from collections.abc import Callable
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Final, Self

from cloister.errors import CloisterError, NetworkError
from cloister.net import tcp
from cloister.net.bounded_log import BoundedLog
from cloister.net.connection import Connection, shut
from cloister.net.door import HandshakeLimiter
from cloister.net.handshake_server import refuse
from cloister.net.handshakes import Handshakes
from cloister.net.shares import Shares
from cloister.wire.peers import Address, parse_address

_LOG: Final = logging.getLogger(__name__)
_REFUSALS: Final = 8
"""How many may be told at once that there is no place for them; the others are closed on without a word."""
_FROM_ONE: Final = 2
OWN: Final = 4
"""How many connections each known peer may have, whatever the others do."""
_HANDSHAKES: Final = 256
DESCRIPTORS_AT_THE_DOOR: Final = 3 * _HANDSHAKES
"""How many descriptors handshakes under way may take."""
_END_S: Final = 5.0
"""How long a thread may take to notice that its connection was ended."""
_SIGNALS_S: Final = 1.0
"""How long Ctrl-C may take to be noticed, at the most."""
_KNOWN: Final = "this key has as many connections as it may have; end one, or try again later"
_UNKNOWN: Final = "others are verifying it at the moment; try again later"


class Listener:
    """Binds at once; ``serve`` accepts.

    Args:
        address: ``host:port``; port 0 takes a free one, and ``.address`` says which.
        context: what this end proves to those who dial: ``contexts.server_context`` or ``tls.instance_context``.
        accepts: whether a fingerprint (empty where the context asks for none) is known. Asked between two handshakes,
            so that it must not wait.
        handle: serves a peer, in the connection's thread; the connection is closed when it returns. It starts
            with ``receive_hello``. Errors that it raises are noted in the log, and end that connection only.
        own, common: how many connections each known peer may have, and how many more there may be, of whoever takes
            them first. One more is refused as busy.
        strangers: how many connections of unknown peers ``handle`` serves too, two from a source at most.
        handshake_s, silent_s: how long a handshake may take in all, and up to its first byte, in seconds. A byte that
            was lost is sent again after a second (RFC 6298, section 2).
        handshakes: how many may be under way at once; an eighth as many, at most, as this process may have
            descriptors, since each takes up to three.
        frame_s, piece_s, send_s: as for ``Connection``.

    Raises:
        ConfigurationError: the address cannot be bound.
    """

    def __init__(
        self,
        *,
        address: str,
        context: ssl.SSLContext,
        accepts: Callable[[str], bool],
        handle: Callable[[Connection], None],
        own: int = OWN,
        common: int = 60,
        strangers: int = 0,
        handshake_s: float = 5.0,
        silent_s: float = 2.0,
        handshakes: int = _HANDSHAKES,
        frame_s: float = 10.0,
        piece_s: float = 30.0,
        send_s: float = 30.0,
    ) -> None:
        self._accepts = accepts
        self._handle = handle
        self._connection = partial(Connection, frame_s=frame_s, piece_s=piece_s, send_s=send_s)
        self._known = Shares(own=own, common=common)
        self._unknown = Shares(own=_FROM_ONE, most=strangers) if strangers else None
        self._refusals = Shares(own=_FROM_ONE, most=_REFUSALS)
        self._log = BoundedLog(_LOG)
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, ssl.SSLSocket | None] = {}
        self._acceptor = threading.Thread(target=self._accept, name="cloister accepts", daemon=True)
        self._accepted_last = threading.Event()
        self._stopped = False
        self._ended = False
        self._socket = tcp.listen(parse_address(address))
        self._socket.setblocking(False)
        self._handshakes = Handshakes(
            self._socket,
            context=context,
            door=HandshakeLimiter(places=_affordable(handshakes), silent_s=silent_s, handshake_s=handshake_s),
            proved=self._proved,
            log=self._log,
        )
        host, port = self._socket.getsockname()[:2]
        self.address = Address(host, port)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def serve(self) -> None:
        """Accepts connections until ``stop`` or ``close`` is called."""
        try:
            self._acceptor.start()
            # Here and not in the accepting thread a signal's handler runs, and raises: wherever Ctrl-C falls, no
            # connection is between two states. Not `join`: interrupted, it takes the thread for ended (bpo-45274).
            while not self._accepted_last.wait(_SIGNALS_S):
                pass  # a signal that came just before the wait began does not end it
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Makes ``serve`` return, and lets the connections there are go on. May be called by a signal handler."""
        self._stopped = True
        shut(self._socket)  # which wakes the thread that waits for it

    def close(self, *, grace_s: float = 0.0) -> None:
        """Stops, gives handlers ``grace_s`` seconds to finish, then ends their connections and waits for them."""
        self.stop()
        if self._acceptor.is_alive():
            self._acceptor.join(_END_S)
        self._join(monotonic() + grace_s)
        with self._lock:
            self._ended = True
            sockets = [secured for secured in self._open.values() if secured is not None]
        for secured in sockets:
            shut(secured)
        self._join(monotonic() + _END_S)
        self._socket.close()

    def _accept(self) -> None:
        try:
            self._handshakes.run(stopped=lambda: self._stopped)
        finally:
            self._log.flush(end=True)
            self._accepted_last.set()

    def _proved(self, secured: ssl.SSLSocket, peer: str, source: str) -> bool:
        """Whether there is a place for a connection whose other end has proved its key."""
        try:
            known = self._accepts(peer)
        except Exception:  # noqa: BLE001  a fault of ours with one connection must not be the others'
            secured.close()
            self._log.note(logging.ERROR, source, "a connection from %s ended", source, trace=True)
            return False
        shares, who = (self._known, peer) if known else (self._unknown, source)
        if shares is None:
            secured.close()
            self._log.note(logging.INFO, source, "refused a stranger from %s: %s", source, peer)
            return False
        if shares.take(who):
            self._start(secured, peer, source, self._handle, lambda: shares.give(who))
            return True
        self._log.note(logging.WARNING, source, "no place for %s from %s", peer or "a stranger", source)
        if self._refusals.take(who):
            refuse_it = partial(refuse, code="busy", text=_KNOWN if known else _UNKNOWN)
            self._start(secured, peer, source, refuse_it, lambda: self._refusals.give(who))
        else:
            secured.close()
        return False

    def _start(
        self,
        secured: ssl.SSLSocket,
        peer: str,
        source: str,
        work: Callable[[Connection], None],
        give_back: Callable[[], None],
    ) -> None:
        connection = self._connection(secured, peer=peer)
        thread = threading.Thread(
            target=self._run, args=(connection, source, work, give_back), name=f"cloister {source}", daemon=True
        )
        try:
            with self._lock:  # so that `_join` finds no thread that has not started
                thread.start()
                self._open = {one: held for one, held in self._open.items() if one.is_alive()}
                self._open[thread] = secured
                if self._ended:
                    shut(secured)
        except RuntimeError:  # the system gives no more threads
            self._log.note(logging.WARNING, source, "cannot serve %s: no thread can be started", source)
            secured.close()
            give_back()

    def _run(
        self, connection: Connection, source: str, work: Callable[[Connection], None], give_back: Callable[[], None]
    ) -> None:
        try:
            work(connection)
        except NetworkError as fault:
            self._log.note(logging.INFO, source, "a connection from %s ended: %s", source, fault)
        except CloisterError as fault:
            self._log.note(logging.WARNING, source, "a connection from %s ended: %s", source, fault)
        except Exception:  # noqa: BLE001  a fault of ours in one connection must not be the others'
            self._log.note(logging.ERROR, source, "a connection from %s ended", source, trace=True)
        finally:
            connection.close()
            with self._lock:
                self._open[threading.current_thread()] = None
            give_back()

    def _join(self, deadline: float) -> None:
        """Waits for the threads of all connections."""
        while (left := deadline - monotonic()) > 0:
            with self._lock:
                threads = [one for one in self._open if one.is_alive() and one is not threading.current_thread()]
            if not threads:
                return
            threads[0].join(left)


def _affordable(places: int) -> int:
    """The descriptors that are left are for those who have been let in."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return places if most == resource.RLIM_INFINITY else max(1, min(places, most // 8))
