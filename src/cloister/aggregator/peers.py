"""The members that are connected, as far as an aggregator has to remember them, and what it says to them."""

from __future__ import annotations

from dataclasses import dataclass

from cloister.aggregator.bodies import Submission
from cloister.aggregator.events import Drop, Effect, Note, Tell
from cloister.charter.charter import Member
from cloister.wire.fields import Message
from cloister.wire.rounds import Submit


@dataclass(eq=False)
class Guest:
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


class Guests:
    """All that are connected, by their fingerprints, and what is to be done about them."""

    def __init__(self) -> None:
        self.all: dict[str, Guest] = {}
        self._effects: list[Effect] = []

    def present(self) -> list[Guest]:
        """Those who have all records, owners first."""
        ready = (guest for guest in self.all.values() if guest.ready)
        return sorted(ready, key=lambda guest: (not guest.owner, guest.name))

    def owners(self) -> list[Guest]:
        """The owners among them, in the order of their names."""
        return [guest for guest in self.present() if guest.owner]

    def tell(self, guest: Guest, message: Message, bodies: tuple[memoryview, ...] = ()) -> None:
        """Has a message sent."""
        self._effects.append(Tell(guest.key, message, bodies))

    def tell_all(self, message: Message) -> None:
        """Has a message sent to all that are present."""
        for guest in self.present():
            self.tell(guest, message)

    def drop(self, guest: Guest, why: str) -> None:
        """Has a connection ended; the guest is none any more."""
        del self.all[guest.key]
        self._effects.append(Drop(guest.key, why))
        self.note(f"{guest.name} is dropped: {why}")

    def note(self, text: str) -> None:
        """Has a line written for the operator."""
        self._effects.append(Note(text))

    def effects(self) -> list[Effect]:
        """What was asked for since the last call."""
        effects, self._effects = self._effects, []
        return effects
