"""The aggregator's entry point: it proves to anyone what it runs and under which charter, and members take part in it.

A thread for each connection. Strangers can have it prove itself, and no more; a member says hello after that, and its
messages go to the state machine of ``cloister.aggregator.protocol``.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from cloister.aggregator.own import UPLOAD_S
from cloister.charter.charter import Charter
from cloister.enclave.connection import MemberHandler
from cloister.enclave.hub import Hub
from cloister.enclave.status import answer_questions
from cloister.net.connection import Connection
from cloister.net.handshake_server import refuse
from cloister.net.listener import Listener
from cloister.net.proving import Instance, Prover
from cloister.net.shares import STRANGERS
from cloister.wire.frames import VERSION, Kind
from cloister.wire.limits import NAME_CHARS
from cloister.wire.messages import Welcome
from cloister.wire.peers import Address

_M_MMAP_THRESHOLD: Final = -3
_LARGE_BYTES: Final = 1 << 20


def give_back_large() -> None:
    """From 1 MiB on every piece of memory is mapped on its own, for the whole process.

    glibc raises that limit to the largest piece that was ever freed, 32 MiB at most, and keeps what is smaller: a few
    models in each of its arenas (mallopt(3), M_MMAP_THRESHOLD). Another C library has no such limit, and is left alone.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


_EACH: Final = 4
"""Connections that one member may have at once: one takes part, the others verify, or are about to take its place."""
_CLOSED: Final = (
    "this aggregator takes members' contributions to studies, and no operations: its charter is closed to interactive"
    " use (interactive = false)"
)


class Aggregator:
    """An aggregator that listens from the start and serves in ``serve``.

    Args:
        charter: that the instance is bound to; it has no faults.
        collateral: encoded, for the record of this instance, so that auditors need no other source; or None.
        upload_s: how long a member's upload may take, in seconds, beside 1 s for each MiB that has arrived.

    Raises:
        ConfigurationError: its address cannot be bound.
    """

    def __init__(
        self,
        instance: Instance,
        *,
        charter: Charter,
        listen: Address,
        collateral: bytes | None = None,
        upload_s: float = UPLOAD_S,
    ) -> None:
        self._instance = instance
        self._members = frozenset(member.key for member in charter.members)
        self._hub = Hub(charter, instance=instance, collateral=collateral, upload_s=upload_s)
        self._ended = threading.Event()
        self._listener = Listener(
            address=str(listen),
            context=instance.context,
            accepts=self._members.__contains__,
            handle=self._converse,
            own=_EACH,
            common=0,
            strangers=STRANGERS,
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
        give_back_large()
        clock = threading.Thread(target=self._hub.keep_time, name="cloister keeps time", daemon=True)
        clock.start()
        try:
            ready()
            if not self._ended.is_set():
                self._listener.serve()
        finally:
            self._listener.close()
            self._hub.end()
            clock.join()

    def _converse(self, connection: Connection) -> None:
        prover = Prover(connection, self._instance)
        hello = prover.open()
        if hello is None:
            return
        if hello.purpose not in ("study", "status"):
            refuse(connection, "peer", text=_CLOSED)
        elif connection.peer not in self._members:
            refuse(connection, "peer", text="only members of its charter take part in a study")
        else:
            name = self._instance.name[:NAME_CHARS]
            connection.send(Kind.WELCOME, Welcome(version=VERSION, name=name, memory_bytes=0, objects=0))
            if hello.purpose == "status":
                answer_questions(connection, hub=self._hub)
            else:
                MemberHandler(connection, hub=self._hub, prover=prover).serve()
