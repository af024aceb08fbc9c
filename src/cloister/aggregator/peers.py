"""The members that are connected, as far as an aggregator has to remember them, and its messages to them."""

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
    """Whether it has been given all records that there are. It takes part in nothing before."""
    answered: int = 0
    """The highest round that it is known to have answered. It commits none before that."""
    sequence: int = 0
    head: bytes = b""
    """The number of its newest record."""
    holds: bool = False
    """Whether it said that it holds the model that its newest record released."""
    model: bytes | None = None
    """The digest of the newest model that it holds."""
    job: bytes | None = None
    """The job that it has been told of."""
    names: bytes | None = None
    """The job that it said is under way, as far as it knows; of owners alone."""
    owes: int = 0
    """The contributions that it was asked for and that have not come yet, even if they are not wanted any more."""
    submitting: Submission | None = None
    """The job that it is sending, or has sent, until that is looked at."""
    submitted: tuple[Submit, Submission] | None = None
    """The same, once all of it has come."""
    waits: str = ""
    """The reason for waiting that it was told about its job."""
    refused: int = 0
    """The number of its messages that were refused since the newest release."""

    @property
    def standing(self) -> Standing:
        """Its standing (``cloister.aggregator.table``)."""
        return Standing.UP_TO_DATE if self.ready else Standing.JOINED if self.joined else Standing.CONNECTED

    @property
    def submits(self) -> bool:
        """Whether a job of its own has memory."""
        return self.submitting is not None and self.submitting.holds

    @property
    def key(self) -> str:
        """Its fingerprint."""
        return self.member.key

    @property
    def name(self) -> str:
        """Its name, for people."""
        return self.member.name

    @property
    def owner(self) -> bool:
        """Whether it is an owner, which contributes."""
        return self.member.role == "owner"

    @property
    def takes_models(self) -> bool:
        """Whether it is given released models. Auditors look at records only."""
        return self.member.role != "auditor"


def refused(number: int, fault: CloisterError) -> Refused:
    """The answer to a message for this round (0: no round) that is not used."""
    code: RefusedCode = (
        "ledger" if isinstance(fault, LedgerError) else "job" if isinstance(fault, JobError) else "round"
    )
    return Refused(round=number, code=code, text=str(fault)[:TEXT_CHARS])


class ConnectedMembers:
    """The connected members, by their fingerprints, and the effects that they are due."""

    def __init__(self) -> None:
        self.all: dict[str, ConnectedMember] = {}
        """Owners first, and in the order of their names."""
        self._effects: list[Effect] = []

    def enter(self, member: Member) -> None:
        """A member is connected from now on."""
        connected = {**self.all, member.key: ConnectedMember(member)}
        self.all = dict(sorted(connected.items(), key=lambda item: (not item[1].owner, item[1].name)))

    def present(self) -> list[ConnectedMember]:
        """The members that have all records, owners first."""
        return [peer for peer in self.all.values() if peer.ready]

    def owners(self) -> list[ConnectedMember]:
        """The owners among them, in the order of their names."""
        return [peer for peer in self.all.values() if peer.ready and peer.owner]

    def tell(self, peer: ConnectedMember, message: Message, bodies: tuple[memoryview, ...] = ()) -> None:
        """Sends a message."""
        self._effects.append(Tell(peer.key, message, bodies))

    def tell_all(self, message: Message) -> None:
        """Sends a message to all that are present."""
        for peer in self.present():
            self.tell(peer, message)

    def drop(self, peer: ConnectedMember, why: str) -> None:
        """Ends a connection; the member is not connected any more."""
        del self.all[peer.key]
        self._effects.append(Drop(peer.key, why))
        self.note(f"{peer.name} is dropped: {why}")

    def note(self, text: str) -> None:
        """Writes a line for the operator."""
        self._effects.append(Note(text))

    def effects(self) -> list[Effect]:
        """The effects since the last call."""
        effects, self._effects = self._effects, []
        return effects
