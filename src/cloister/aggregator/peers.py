"""The members that are connected, as far as an aggregator has to remember them, and what it says to them."""

from __future__ import annotations

from dataclasses import dataclass

from cloister.aggregator.bodies import Submission
from cloister.aggregator.events import Drop, Effect, Note, Tell
from cloister.aggregator.table import Standing
from cloister.charter.charter import Member
from cloister.errors import CloisterError, JobError, LedgerError
from cloister.wire.fields import Message
from cloister.wire.limits import TEXT_CHARS
from cloister.wire.rounds import Refused, RefusedCode, Submit


@dataclass(eq=False)
class ConnectedMember:
    """One member's connection."""

    member: Member
    joined: bool = False
    """Whether it has said how far its records go."""
    ready: bool = False
    """Whether it has been given all records that there are: only then it takes part in anything."""
    sequence: int = 0
    head: bytes = b""
    """How far its records go."""
    holds: bool = False
    """Whether it said that it holds the model which the newest of its records released."""
    model: bytes | None = None
    """The digest of the newest model that it holds."""
    job: bytes | None = None
    """The job that it has been told of."""
    owes: bool = False
    """Whether it was asked for a contribution that has not come yet, wanted or not."""
    submitting: bool = False
    """Whether it sends a job at the moment."""
    submitted: tuple[Submit, Submission] | None = None
    """The job that it has sent, until it is looked at."""
    waits: str = ""
    """What it was told that its job waits for."""
    refused: int = 0
    """How many of its messages were refused since a round was last released."""

    @property
    def standing(self) -> Standing:
        """How far it is (``cloister.aggregator.table``)."""
        return Standing.UP_TO_DATE if self.ready else Standing.JOINED if self.joined else Standing.CONNECTED

    @property
    def key(self) -> str:
        """Its fingerprint."""
        return self.member.key

    @property
    def name(self) -> str:
        """What people call it."""
        return self.member.name

    @property
    def owner(self) -> bool:
        """Whether it contributes."""
        return self.member.role == "owner"

    @property
    def takes_models(self) -> bool:
        """Whether released models are for it: auditors look at records only."""
        return self.member.role != "auditor"


def refused(number: int, fault: CloisterError) -> Refused:
    """The answer to what was sent for this round (0: no round), and is not used."""
    code: RefusedCode = (
        "ledger" if isinstance(fault, LedgerError) else "job" if isinstance(fault, JobError) else "round"
    )
    return Refused(round=number, code=code, text=str(fault)[:TEXT_CHARS])


class ConnectedMembers:
    """All that are connected, by their fingerprints, and what is to be done about them."""

    def __init__(self) -> None:
        self.all: dict[str, ConnectedMember] = {}
        self._effects: list[Effect] = []

    def present(self) -> list[ConnectedMember]:
        """Those who have all records, owners first."""
        ready = (peer for peer in self.all.values() if peer.ready)
        return sorted(ready, key=lambda peer: (not peer.owner, peer.name))

    def owners(self) -> list[ConnectedMember]:
        """The owners among them, in the order of their names."""
        return [peer for peer in self.present() if peer.owner]

    def tell(self, peer: ConnectedMember, message: Message, bodies: tuple[memoryview, ...] = ()) -> None:
        """Has a message sent."""
        self._effects.append(Tell(peer.key, message, bodies))

    def tell_all(self, message: Message) -> None:
        """Has a message sent to all that are present."""
        for peer in self.present():
            self.tell(peer, message)

    def drop(self, peer: ConnectedMember, why: str) -> None:
        """Has a connection ended; the member is none any more."""
        del self.all[peer.key]
        self._effects.append(Drop(peer.key, why))
        self.note(f"{peer.name} is dropped: {why}")

    def note(self, text: str) -> None:
        """Has a line written for the operator."""
        self._effects.append(Note(text))

    def effects(self) -> list[Effect]:
        """What was asked for since the last call."""
        effects, self._effects = self._effects, []
        return effects
