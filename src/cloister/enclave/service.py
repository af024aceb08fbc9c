"""The aggregator's entry point: it proves to anyone what it runs and under which charter, and lets members in.

Of the members' work it does none yet: rounds come with the aggregator proper. Until then whoever has verified it and
says hello is told so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Final

from cloister.net.connection import Connection
from cloister.net.greeting import refuse
from cloister.net.proving import Instance, Prover
from cloister.net.server import Listener
from cloister.net.strangers import Strangers
from cloister.wire.address import Address

_CONNECTIONS: Final = 64
_CLOSED: Final = (
    "this aggregator's charter is closed to interactive use (interactive = false), and this version has no rounds yet:"
    " it can be verified, and that is all"
)


class Aggregator:
    """An aggregator that listens from the start and serves in ``serve``.

    Args:
        members: the fingerprints of the charter's members, for whom strangers leave room.

    Raises:
        ConfigurationError: its address cannot be bound.
    """

    def __init__(self, instance: Instance, *, listen: Address, members: Collection[str] = ()) -> None:
        self._instance = instance
        self._members = frozenset(members)
        self._strangers = Strangers()
        self._ended = threading.Event()
        self._listener = Listener(
            address=str(listen),
            context=instance.context,
            accepts=lambda _: True,
            handle=self._handle,
            max_connections=_CONNECTIONS,
        )

    @property
    def address(self) -> Address:
        """Where it listens: the port is the one that the system gave when 0 was asked for."""
        return self._listener.address

    @property
    def fingerprint(self) -> str:
        """Of this instance's key."""
        return self._instance.fingerprint

    def stop(self) -> None:
        """Makes ``serve`` come to its end. May be called by a signal handler."""
        self._ended.set()
        self._listener.stop()

    def serve(self, *, ready: Callable[[], None] = lambda: None) -> None:
        """Serves until ``stop``."""
        try:
            ready()
            if not self._ended.is_set():
                self._listener.serve()
        finally:
            self._listener.close()

    def _handle(self, connection: Connection) -> None:
        if connection.peer in self._members:
            self._converse(connection)
        else:
            self._strangers.serve(connection, self._converse)

    def _converse(self, connection: Connection) -> None:
        hello = Prover(connection, self._instance).open()
        if hello is not None:
            refuse(connection, "peer", text=_CLOSED)
