"""How a study stands, as its aggregator says: who is there, what it waits for, what is left; and how to stop its job.

It is asked on a connection of its own, so that a script that runs with the same key is not disturbed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from cloister import __version__
from cloister.charter import Charter
from cloister.errors import JobError, MessageError, NetworkError, PeerRefusedError, StudyError
from cloister.net.attested import AttestedConnection, attest_peer
from cloister.net.handshake_client import greet, refusal_error
from cloister.net.identity import Identity
from cloister.net.policy import AttestationPolicy
from cloister.wire import rounds as w
from cloister.wire.frames import Kind
from cloister.wire.text import visible

_WAIT_S: Final = 60.0
_DOING: Final[dict[str, str]] = {
    "away": "not connected",
    "there": "there",
    "out": "out of the round",
    "awaited": "the round waits for it",
    "done": "done for now",
}


@dataclass(frozen=True)
class OwnerState:
    """One owner: its name in the charter; ``doing``, which is ``"away"``, ``"there"``, ``"awaited"``, ``"done"``, or
    ``"out"`` of the round; why it is out, or was out of the last round; and the rounds that its data set had left when
    it last answered, or None where its owner does not publish that."""

    name: str
    doing: str
    why: str
    left: int | None = None

    def __str__(self) -> str:
        return f"{self.name:<20}{_DOING[self.doing]}{self._why()}{self._left()}"

    def _why(self) -> str:
        if not self.why:
            return ""
        if self.doing == "out":
            return f": {self.why}"
        return f"; {'not in the mean' if self.doing in ('awaited', 'done') else 'out of the last round'}: {self.why}"

    def _left(self) -> str:
        return "" if self.left is None else f"; {self.left} rounds left of its data set"


@dataclass(frozen=True)
class StudyStatus:
    """How a study stands. ``print`` shows it.

    ``job`` is the name of the one that runs, or empty; ``done`` of its ``rounds`` are released. ``round`` is 0 and
    ``phase`` ``"between rounds"`` where none is under way. ``waits`` is what it waits for, if it does, or why the last
    round was void. ``left`` are the charter's rounds that are left.
    """

    job: str
    done: int
    rounds: int
    round: int
    phase: str
    waits: str
    left: int
    owners: tuple[OwnerState, ...]

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def describe(self) -> dict[str, Any]:
        """The same as JSON holds it."""
        return asdict(self)

    def _lines(self) -> Iterator[str]:
        yield (
            f"job         {self.job}, {self.done} of {self.rounds} rounds released" if self.job else "job         none"
        )
        yield f"round       {f'{self.round}, ' if self.round else ''}{self.phase}"
        if self.waits:
            yield f"{'waits' if self.round else 'since':<12}{self.waits}"
        yield f"left        {self.left} of the charter's rounds"
        for owner in self.owners:
            yield f"owner       {owner}"


def dial(policy: AttestationPolicy, *, identity: Identity, routes: Mapping[str, str]) -> AttestedConnection:
    """Dials the addresses of a charter's aggregator, one after another, until one proves itself.

    Raises:
        NetworkError: none of them answers. AttestationError: what one proves is not acceptable.
    """
    faults: list[NetworkError] = []
    for address in policy.charter.addresses:
        try:
            return attest_peer(address, policy=policy, identity=identity, at=routes.get(address))
        except NetworkError as fault:
            faults.append(fault)
    raise faults[-1]


def ask(attested: AttestedConnection, message: w.Ask | w.Stop, *, charter: Charter) -> StudyStatus:
    """Asks an aggregator how the study stands; or has it stop the job that runs, and then says how it stands.

    Raises:
        JobError: there is no job that this member could stop.
        StudyError: the aggregator does not take this member. NetworkError: the connection is lost.
    """
    connection = attested.connection
    try:
        greet(connection, purpose="status", software=f"cloister {__version__}", wait_s=_WAIT_S)
        connection.send(Kind.ROUND, message)
        frame = connection.receive(wait_s=_WAIT_S)
    except PeerRefusedError as fault:
        raise StudyError(f"the aggregator says nothing to this identity: {fault}") from fault
    if frame.kind is Kind.REFUSAL:
        raise refusal_error(frame.message())
    match frame.message() if frame.kind is Kind.ROUND else None:
        case w.Status() as status:
            return _read(status, charter)
        case w.Refused(text=text):
            raise JobError(visible(text))
    raise MessageError("an aggregator was asked how the study stands, and says something else")


def _read(status: w.Status, charter: Charter) -> StudyStatus:
    names = {owner.key: owner.name for owner in charter.owners}
    owners = tuple(
        OwnerState(names[each.owner], each.doing, visible(each.text), each.left)
        for each in status.owners
        if each.owner in names
    )
    return StudyStatus(
        visible(status.job),
        status.done,
        status.rounds,
        status.round,
        visible(status.phase),
        visible(status.text),
        status.left,
        owners,
    )
