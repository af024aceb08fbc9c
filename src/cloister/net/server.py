"""A listener: accepts TLS connections from known peers and gives each a thread of its own.

What a stranger can hold is bounded: one of a few places at the door, for one handshake's time. Then it is closed on,
and nothing was read from it or sent to it.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from functools import partial
from time import monotonic, sleep
from types import TracebackType
from typing import Final, Self

from cloister.errors import CloisterError, NetworkError
from cloister.net import tcp
from cloister.net.connection import Connection, shut
from cloister.net.door import Door
from cloister.net.reception import refuse
from cloister.net.tls import handshake, wrap
from cloister.wire.address import Address, parse_address

_LOG: Final = logging.getLogger(__name__)
_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_REFUSALS: Final = 8
"""How many may be told at once that all connections are taken; the others are closed on without a word."""
_END_S: Final = 5.0
"""How long a thread may take to notice that its connection was ended."""


class Listener:
    """Binds at once; ``serve`` accepts.

    Args:
        address: ``host:port``; port 0 takes a free one, and ``.address`` says which.
        context: what this end proves to those who dial: ``contexts.server_context`` or ``tls.instance_context``.
        accepts: whether a fingerprint (empty where the context asks for none) is let in. Called in the connection's
            thread.
        handle: serves a known peer, in the connection's thread; the connection is closed when it returns. It starts
            with ``receive_hello``. Errors that it raises are noted in the log, and end that connection only.
        max_connections: how many known peers' connections there may be at once; one more is refused as busy.
        handshake_s: how long a handshake may take in all, in seconds.
        handshakes, handshakes_per_source: how many may be under way at once, in all and from one address.
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
        max_connections: int = 64,
        handshake_s: float = 5.0,
        handshakes: int = 16,
        handshakes_per_source: int = 8,
        frame_s: float = 10.0,
        piece_s: float = 30.0,
        send_s: float = 30.0,
    ) -> None:
        self._accepts = accepts
        self._handle = handle
        self._handshake_s = handshake_s
        self._connection = partial(Connection, frame_s=frame_s, piece_s=piece_s, send_s=send_s)
        self._context = context
        self._door = Door(places=handshakes, per_source=handshakes_per_source)
        self._slots = threading.BoundedSemaphore(max_connections)
        self._refusals = threading.BoundedSemaphore(_REFUSALS)
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, ssl.SSLSocket | None] = {}
        self._acceptor = threading.Thread(target=self._accept, name="cloister accepts", daemon=True)
        self._accepted_last = threading.Event()
        self._stopped = False
        self._ended = False
        self._socket = tcp.listen(parse_address(address))
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
            self._accepted_last.wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Makes ``serve`` return, and lets the connections there are go on. May be called by a signal handler."""
        self._stopped = True
        shut(self._socket)  # wakes `accept`

    def close(self, *, grace_s: float = 0.0) -> None:
        """Stops, gives handlers ``grace_s`` seconds to finish, then ends their connections and waits for them."""
        self.stop()
        self._door.close()
        self._join(monotonic() + grace_s)
        with self._lock:
            self._ended = True
            sockets = [secured for secured in self._open.values() if secured is not None]
        for secured in sockets:
            shut(secured)
        deadline = monotonic() + _END_S
        if self._acceptor.is_alive():
            self._acceptor.join(_END_S)
        self._join(deadline)
        self._socket.close()

    def _accept(self) -> None:
        try:
            while not self._stopped:
                self._door.wait()
                self._accept_one()
        finally:
            self._accepted_last.set()

    def _accept_one(self) -> None:
        try:
            raw, peer = self._socket.accept()
        except OSError as fault:
            self._door.give_up()
            if fault.errno in _OUT_OF_RESOURCES and not self._stopped:
                _LOG.warning("cannot accept connections: %s", fault.strerror)
                sleep(0.1)  # a place or a descriptor comes free when a connection ends; nothing tells us
            return
        source = tcp.source_of(peer)
        if self._door.enter(raw, source):
            self._start(raw, source)

    def _start(self, raw: socket.socket, source: str) -> None:
        thread = threading.Thread(target=self._run, args=(raw, source), name=f"cloister {source}", daemon=True)
        try:
            with self._lock:  # so that `_join` finds no thread that has not started
                thread.start()
                self._open = {one: secured for one, secured in self._open.items() if one.is_alive()}
                self._open[thread] = None
        except RuntimeError:  # the system gives no more threads
            _LOG.warning("cannot serve %s: no thread can be started", source)
            raw.close()
            self._next(source)

    def _run(self, raw: socket.socket, source: str) -> None:
        secured: ssl.SSLSocket | None = None
        try:
            try:
                secured = wrap(raw, context=self._context, server_side=True)
                self._register(secured)
                peer = handshake(secured, within_s=self._handshake_s)
            finally:
                self._next(source)
            if self._accepts(peer):
                self._serve_known(self._connection(secured, peer=peer), source)
            else:
                _LOG.info("refused a stranger from %s: %s", source, peer)
        except NetworkError as fault:
            _LOG.info("a connection from %s ended: %s", source, fault)
        except CloisterError as fault:
            _LOG.warning("a connection from %s ended: %s", source, fault)
        except Exception:  # noqa: BLE001  a fault of ours in one connection must not be the others'
            _LOG.exception("a connection from %s ended", source)
        finally:
            (secured or raw).close()
            self._register(None)

    def _serve_known(self, connection: Connection, source: str) -> None:
        if not self._slots.acquire(blocking=False):
            _LOG.warning("%s from %s is refused: all connections are taken", connection.peer, source)
            if self._refusals.acquire(blocking=False):
                refuse(connection, "busy", text="it has as many connections as it may have; try again later")
                self._refusals.release()
            return
        try:
            self._handle(connection)
        finally:
            self._slots.release()

    def _register(self, secured: ssl.SSLSocket | None) -> None:
        with self._lock:
            self._open[threading.current_thread()] = secured
            if self._ended and secured is not None:
                shut(secured)

    def _next(self, source: str) -> None:
        following = self._door.leave(source)
        if following is not None:
            self._start(following, source)

    def _join(self, deadline: float) -> None:
        """Waits for all threads, also for those that others start as they end."""
        while (left := deadline - monotonic()) > 0:
            with self._lock:
                threads = [one for one in self._open if one.is_alive() and one is not threading.current_thread()]
            if not threads:
                return
            threads[0].join(left)
