"""Where members' connections meet the state machine: one lock around it, one outbox for each of them, and the time."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic, time_ns
from typing import Final, NamedTuple

from cloister.aggregator.bodies import Body
from cloister.aggregator.events import Drop, Effect, Event, Joined, Left, Note, Said, Tell, Tick
from cloister.aggregator.own import InstanceIdentity
from cloister.aggregator.protocol import AggregatorProtocol
from cloister.charter import Charter
from cloister.net.polling import READABLE, Wakeup, wait
from cloister.net.proving import Instance
from cloister.wire.fields import Message
from cloister.wire.messages import Proof
from cloister.wire.rounds import Status

_log: Final = logging.getLogger(__name__)

_MESSAGES: Final = 256
_BODIES: Final = 4
_SMALL_BYTES: Final = 1 << 16
_TOO_SLOW: Final = "it does not read what it is told"


class Outgoing(NamedTuple):
    """A message on its way to a member, and its body."""

    message: Message
    bodies: tuple[memoryview, ...]

    @property
    def large(self) -> bool:
        """Whether it keeps a model, or the like, from being forgotten."""
        return sum(map(len, self.bodies)) > _SMALL_BYTES


class MemberConnection:
    """One member's connection, as the others see it: what it is to be told, and a wakeup that says that there is more.

    ``interrupt`` ends the connection under the thread that uses it.
    """

    def __init__(self, member: str, *, interrupt: Callable[[], None]) -> None:
        self.member: Final = member
        self.busy = False
        """Whether its thread sends or receives at the moment, and does not hear the wakeup."""
        self._interrupt = interrupt
        self.wakeup: Final = Wakeup()
        self.outbox: Final[deque[Outgoing]] = deque()
        self.ending = ""
        """Why the connection is to be ended, once it is."""

    @property
    def crowded(self) -> bool:
        """Whether too much waits in its outbox."""
        return len(self.outbox) > _MESSAGES or sum(outgoing.large for outgoing in self.outbox) > _BODIES

    def end(self, why: str) -> None:
        """Has the connection ended: after what is in its outbox, unless its thread is held up by the member."""
        self.ending = self.ending or why
        self.wakeup.set()
        if self.busy:
            self._interrupt()


class Hub:
    """The state machine of an instance, for as many threads as there are members."""

    def __init__(self, charter: Charter, *, instance: Instance, collateral: bytes | None, upload_s: float) -> None:
        def prove(nonce: bytes) -> Proof:
            return instance.prove(instance.transcript(nonce, client=None))

        own = InstanceIdentity(
            signer=instance.signing_key,
            sign=instance.sign,
            prove=prove,
            salt=lambda: secrets.token_bytes(32),
            random=secrets.token_bytes,
            time=lambda: time_ns() // 1_000_000,
            collateral=collateral,
            upload_s=upload_s,
        )
        self.upload_s: Final = upload_s
        self._rounds = AggregatorProtocol(charter, own=own)
        self._lock = threading.RLock()
        self._connections: dict[str, MemberConnection] = {}
        self._clock = Wakeup()
        self._due: float | None = None
        self._alarm: float | None = None
        """When ``keep_time`` looks next, unless its wakeup rings."""
        self._ended = False
        instance.follow(self._newest)

    def enter(self, member: str, *, interrupt: Callable[[], None]) -> MemberConnection:
        """A member takes part from now on, in the place of the connection that it may have had before.

        ``interrupt`` ends its connection under the thread that uses it.
        """
        with self._lock:
            before = self._connections.pop(member, None)
            if before is not None:
                before.end("the same member has connected again")
                self._happen(Left(member))
            member_connection = self._connections[member] = MemberConnection(member, interrupt=interrupt)
            self._happen(Joined(member))
            return member_connection

    def leave(self, member_connection: MemberConnection) -> None:
        """A member's connection has ended."""
        with self._lock:
            if self._connections.get(member_connection.member) is member_connection:
                del self._connections[member_connection.member]
                self._happen(Left(member_connection.member))

    def expect(self, member_connection: MemberConnection, message: Message, *, body_bytes: int) -> Body | None:
        """Where the body of a member's message goes. Raises as ``AggregatorProtocol.expect``."""
        with self._lock:
            if self._connections.get(member_connection.member) is member_connection:
                body = self._rounds.expect(member_connection.member, message, body_bytes=body_bytes)
                self._happen(Tick())  # it may have to give way to others
                return body
            return None

    def say(self, member_connection: MemberConnection, message: Message, body: Body | None) -> None:
        """A member's message has arrived, and its body."""
        with self._lock:
            if self._connections.get(member_connection.member) is member_connection:
                self._happen(Said(member_connection.member, message, body))

    def take(self, member_connection: MemberConnection) -> list[Outgoing]:
        """What a member is to be told now."""
        with self._lock:
            waiting = list(member_connection.outbox)
            member_connection.outbox.clear()
            return waiting

    def status(self) -> Status:
        """How the study stands."""
        with self._lock:
            return self._rounds.status()

    def stop(self, member: str) -> None:
        """Ends the job that runs. Raises as ``AggregatorProtocol.stop``."""
        with self._lock:
            self._do(self._rounds.stop(member, now=monotonic()))

    def keep_time(self) -> None:
        """Tells the state machine of the moments that it asks for, until ``end``."""
        while not self._ended:
            wait({self._clock.fileno(): READABLE}, until=self._alarm)
            self._clock.clear()
            with self._lock:
                if self._due is not None and monotonic() >= self._due:
                    self._happen(Tick())
                self._alarm = self._due

    def end(self) -> None:
        """Makes ``keep_time`` return. May be called by a signal handler."""
        self._ended = True
        self._clock.set()

    def _newest(self) -> tuple[bytes, int]:
        with self._lock:
            ledger = self._rounds.ledger
            return ledger.head, ledger.sequence

    def _happen(self, event: Event) -> None:
        self._do(self._rounds.handle(event, now=monotonic()))

    def _do(self, effects: Iterable[Effect]) -> None:
        crowded = []
        for effect in effects:
            match effect:
                case Tell(member=member, message=message, bodies=bodies):
                    member_connection = self._connections[member]
                    if not member_connection.outbox:  # otherwise it was rung for what is there already
                        member_connection.wakeup.set()
                    member_connection.outbox.append(Outgoing(message, bodies))
                    crowded += [member_connection] if member_connection.crowded else []
                case Drop(member=member, why=why):
                    self._connections.pop(member).end(why)
                case Note(text=text):
                    _log.info("%s", text)
        self._due = self._rounds.due
        if self._due is not None and (self._alarm is None or self._due < self._alarm):
            self._alarm = self._due  # a later moment is found when the earlier one has come
            self._clock.set()
        for member_connection in crowded:
            if self._connections.get(member_connection.member) is member_connection:
                member_connection.end(_TOO_SLOW)
                self.leave(member_connection)
