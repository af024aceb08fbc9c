"""How a study stands, as its aggregator says: who is there, what it waits for, what is left; and how to stop its job.

It is asked on a connection of its own, so that a script that runs with the same key is not disturbed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import cloister
from cloister.charter import Charter
from cloister.errors import JobError, MessageError, PeerRefusedError, StudyError
from cloister.net.attested import AttestedConnection
from cloister.net.handshake_client import greet, refusal_error
from cloister.wire import rounds as w
from cloister.wire.frames import Kind
from cloister.wire.text import visible

_WAIT_S: Final = 60.0
_DOING: Final[dict[str, str]] = {
    "away": "not connected",
    "there": "there",
    "out": "out of the round",
    "awaited": "the round waits for it",
    "done": "done with this phase",
}


@dataclass(frozen=True)
class OwnerState:
    """One owner: its name in the charter; ``doing``, which is ``"away"``, ``"there"``, ``"awaited"``, ``"done"``, or
    ``"out"`` of the round; and why it is out."""

    name: str
    doing: str
    why: str

    def __str__(self) -> str:
        return f"{self.name:<20}{_DOING[self.doing]}{f': {self.why}' if self.why else ''}"


@dataclass(frozen=True)
class StudyStatus:
    """How a study stands. ``print`` shows it.

    ``job`` is the name of the one that runs, or empty; ``done`` of its ``rounds`` are released. ``round`` is 0 and
    ``phase`` ``"between rounds"`` where none is under way. ``waits`` is what it waits for, if it does. ``left`` are the
    charter's rounds that are left.
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

    def _lines(self) -> Iterator[str]:
        yield (
            f"job         {self.job}, {self.done} of {self.rounds} rounds released" if self.job else "job         none"
        )
        yield f"round       {f'{self.round}, ' if self.round else ''}{self.phase}"
        if self.waits:
            yield f"waits       {self.waits}"
        yield f"left        {self.left} of the charter's rounds"
        for owner in self.owners:
            yield f"owner       {owner}"


def ask(attested: AttestedConnection, message: w.Ask | w.Stop, *, charter: Charter) -> StudyStatus:
    """Asks an aggregator how the study stands; or has it stop the job that runs, and then says how it stands.

    Raises:
        JobError: there is no job that this member could stop.
        StudyError: the aggregator does not take this member. NetworkError: the connection is lost.
    """
    connection = attested.connection
    try:
        greet(connection, purpose="status", software=f"cloister {cloister.__version__}", wait_s=_WAIT_S)
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
        OwnerState(names[each.owner], each.doing, visible(each.text)) for each in status.owners if each.owner in names
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
