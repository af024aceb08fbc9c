"""The explorer's world: instances, owners, traitors and a researcher, a network, and an adversary that rules it all.

One step is one thing that happens to one of them: a message arrives, a training ends, a process dies, a clone is
started, a deadline passes. All that is real is the package's: the aggregator's state machine, owners' decisions,
their records on a disk, keys and ledgers. Threads, sockets and the TEE are not here.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from cloister.aggregator.bodies import Body
from cloister.aggregator.events import Drop, Effect, Joined, Left, Note, Said, Tell
from cloister.attest.transcript import Transcript
from cloister.errors import CloisterError, RecordsError
from cloister.ledger.chain import Ledger
from cloister.node.study import member as members
from cloister.node.study.effects import Leave
from cloister.wire import rounds as w
from tests.explorer.parties import Crash, Loot, Owner, Researcher, Traitor, no_stranger, spoiled
from tests.explorer.setting import RESEARCHER, Setting, Study, studies
from tests.explorer.watching import Watch
from tests.support.owners import Heard, key_of
from tests.support.rounds import Instance, fill

INSTANCES: Final = 3
"""The most that run at once under a charter."""


class Challenge(NamedTuple):
    """On the way to an instance: prove yourself, with a ledger that goes at least this far."""

    newest: tuple[int, bytes]


class Lie(Heard):
    """What an instance says that lies. What is answered does not confuse its rounds, unless a challenge is between."""


class Proof(NamedTuple):
    """On the way back."""

    transcript: Transcript
    newest: tuple[int, bytes]


@dataclass(eq=False)
class Link:
    """A connection. What is in it still arrives after one end has gone, until the other end finds out."""

    name: str
    study: int
    machine: Machine
    traitor: Traitor | None = None
    up: deque[Any] = field(default_factory=deque)
    down: deque[Any] = field(default_factory=deque)
    here: bool = True
    """Whether the member's end is open; ``there``: the instance's."""
    there: bool = True
    challenges: int = 0
    seen: tuple[int, bytes] = (0, b"")
    arriving: tuple[Any, Body | None] | None = None
    """What has begun to arrive at the instance, and is handled in a later step."""


class Machine(Instance):
    """One run of the aggregator, on links."""

    def __init__(self, study: Study, *, number: int, index: int, clone: Machine | None = None) -> None:
        self.key_number: int = number if clone is None else clone.key_number
        super().__init__(study.charter, seed=self.key_number)
        self.number = number
        self.study = index
        self.links: dict[str, Link] = {}
        """By the members' fingerprints."""
        self.proposed = 0
        """The number of rounds since the newest release."""
        self._transcripts: dict[bytes, Transcript] = {}

    def welcome(self, link: Link) -> None:
        """A member has connected; its older connection ends."""
        key = key_of(link.name)
        self.lose(key)
        self.links[key] = link
        self.happen(Joined(key))

    def lose(self, key: str) -> None:
        """A member's connection has ended."""
        before = self.links.pop(key, None)
        if before is not None:
            before.there = False
            self.happen(Left(key))

    def transcript(self) -> Transcript:
        """What it proves now."""
        head = self.ledger.head
        if head not in self._transcripts:
            self._transcripts[head] = Transcript.decode(self.prove(bytes(32)).transcript)
        return self._transcripts[head]

    def _do(self, effect: Effect) -> None:
        match effect:
            case Tell(member=key, message=message, bodies=bodies):
                self.links[key].down.append(Heard(message, b"".join(bodies)))
            case Drop(member=key):
                self.links.pop(key).there = False
            case Note(text=text):
                self.notes.append(text)
                self.proposed = 0 if text.endswith("is released") else self.proposed + ("is proposed to" in text)


class World:
    """All of it, for one setting. ``step`` has one thing happen, by ``chance``; ``told`` keeps what did."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        self.setting = setting
        self.chance = random.Random(f"steps {setting.seed}")
        self.studies: Sequence[Study] = studies(setting)
        self.watch = Watch(setting, self.studies)
        self.machines: list[Machine] = []
        self.links: list[Link] = []
        self.told: list[str] = []
        self.signers: set[bytes] = set()
        self.loot = [Loot() for _ in self.studies]
        """What those who harm a study have of it."""
        self.buried: set[str] = set()
        """Owners whose nodes are never started again."""
        self.peace = False
        verify_instance = no_stranger(self.signers)
        honest = [name for name in setting.owners if name not in setting.traitors]
        self.owners = {name: Owner(name, folder / name, self.studies, verify_instance) for name in honest}
        self.researchers = [Researcher(study) for study in self.studies]
        self.tapes: dict[tuple[str, int, bool], list[Any]] = {}
        self._started = 0
        self._looked: dict[tuple[str, int], Ledger] = {}
        self._voids: dict[tuple[str, int], int] = {}
        for owner in self.owners.values():
            owner.start()

    def close(self) -> None:
        """Ends all processes."""
        for owner in self.owners.values():
            if owner.alive:
                owner.die()

    def tell(self, text: str) -> None:
        """Keeps what has happened, for people."""
        self.told.append(text)

    # Instances

    def start(self, study: int, *, clone: Machine | None = None) -> Machine:
        """An instance is started; it knows nothing. ``clone``: one whose keys it has."""
        self._started += 1
        machine = Machine(self.studies[study], number=self._started, index=study, clone=clone)
        self.machines.append(machine)
        self.signers.add(machine.signer)
        keys = "" if clone is None else f" with the keys of instance {clone.number}"
        self.tell(f"instance {machine.number} is started under charter {study}{keys}")
        return machine

    def kill(self, machine: Machine) -> None:
        """An instance dies. What it said may still arrive."""
        self.machines.remove(machine)
        self.tell(f"instance {machine.number} dies")
        for link in machine.links.values():
            link.there = False

    def tick(self, machine: Machine) -> None:
        """An instance finds that a deadline has passed."""
        self.tell(f"time passes at instance {machine.number}")
        machine.tick()
        self.look(machine)

    def look(self, machine: Machine) -> None:
        """What an instance has released."""
        for receipt in machine.ledger.receipts[-1:]:
            self.watch.released(machine.study, receipt)

    # Connections

    def connect(self, name: str, machine: Machine) -> None:
        """A member verifies an instance, and joins it. An honest one leaves the instance that it was at."""
        study = machine.study
        if name in self.setting.traitors:
            traitor = Traitor(name, self.studies[study], loot=self.loot[study], chance=self.chance)
            traitor.offered = self.watch.betrayals
            if self.peace:
                traitor.faithful = 1.0
            link = Link(name, study, machine, traitor)
            link.up.append((traitor.join(), b""))
        else:
            for each in self.links:
                if (each.name, each.study) == (name, study) and each.here:
                    self.leave(each, "for another instance")
            link = Link(name, study, machine)
        self.tell(f"{name} connects to instance {machine.number}")
        self.links.append(link)
        machine.welcome(link)
        self.look(machine)
        if name == RESEARCHER:
            link.up.append((self.researchers[study].join(), b""))
        elif name in self.owners:
            transcript = machine.transcript()
            link.seen = (transcript.ledger_sequence, transcript.ledger_head)
            self._run(link, lambda member: member.connected(transcript))

    def leave(self, link: Link, why: str) -> None:
        """A member's end of a connection is closed."""
        link.here = False
        link.down.clear()
        self.tell(f"{link.name} leaves instance {link.machine.number}: {why}")
        owner = self.owners.get(link.name)
        if owner is not None and owner.alive:
            self._do(link, owner.members[link.study].disconnected())
            owner.training.pop(link.study, None)

    def forget(self, link: Link) -> None:
        """An instance finds out that a connection has ended; what was still on its way to it is lost."""
        link.up.clear()
        link.arriving = None
        if link.there and link.machine in self.machines:
            self.tell(f"instance {link.machine.number} loses {link.name}")
            link.machine.lose(key_of(link.name))
            self.look(link.machine)
        link.there = False

    # Messages

    def arrive(self, link: Link, *, at: int = 0, keep: bool = False) -> None:
        """A message arrives at an instance: the next, unless the adversary may choose another."""
        item = link.up[at]
        if not keep:
            del link.up[at]
        if isinstance(item, Challenge):
            if link.here:
                link.down.append(Proof(link.machine.transcript(), item.newest))
            return
        self.say(link, item)

    def say(self, link: Link, item: tuple[Any, bytes], *, whole: bool = True) -> None:
        """A message arrives at an instance; unless ``whole``, its body does, and it is handled in a later step."""
        message, body = item
        machine, key = link.machine, key_of(link.name)
        if not link.there or machine not in self.machines or link.arriving is not None:
            return
        self.tell(f"instance {machine.number} hears {link.name}'s {_told(message)}")
        try:
            room = machine.rounds.expect(key, message, body_bytes=len(body))
        except CloisterError as fault:
            self.tell(f"  and ends the connection: {fault}")
            self.forget(link)
            return
        if room is not None:
            fill(room, body)
        link.arriving = (message, room)
        if whole:
            self.complete(link)

    def complete(self, link: Link) -> None:
        """An instance handles what has arrived."""
        assert link.arriving is not None
        (message, room), link.arriving = link.arriving, None
        if link.there and link.machine in self.machines:
            link.machine.happen(Said(key_of(link.name), message, room))
            self.look(link.machine)

    def hear(self, link: Link, *, at: int = 0, keep: bool = False) -> None:
        """A message arrives at a member."""
        item = link.down[at]
        if not keep:
            del link.down[at]
        if isinstance(item, Heard):
            self.take(link, item)
        elif link.challenges and link.here:
            self._take_proof(link, item)

    def take(self, link: Link, heard: Heard) -> None:
        """A member hears this."""
        if not link.here:
            return
        if self._is_lost_on(link.name, heard.message):
            return
        self.tell(f"{link.name} hears instance {link.machine.number}'s {_told(heard.message)}")
        if link.traitor is not None:
            self._betray(link, heard)
        elif link.name == RESEARCHER:
            self._research(link, heard)
        else:
            self._ask(link, heard.message)
            lie = isinstance(heard, Lie)
            self._run(link, lambda member: member.handle(heard.message, heard.body), quiet=lie)

    def _is_lost_on(self, name: str, message: Any) -> bool:
        """Whether an owner that is lost is not told this."""
        lost = self.setting.lost.get(name) == type(message).__name__ and (self.peace or self.chance.random() < 0.5)
        if lost:
            self.tell(f"{name} never hears of {_told(message)}")
        return lost

    def _ask(self, link: Link, message: Any) -> None:
        """Keeps what an honest owner is asked to sign."""
        owner, loot = self.owners[link.name], self.loot[link.study]
        match message:
            case w.Draft(round=number, cohort=cohort):
                owner.drafts[link.study, number].append(cohort)
                loot.see(cohort)
            case w.Settle(round=number, cohort=cohort, outcome=outcome):
                owner.settles[link.study, number].append((cohort, outcome))
                loot.see(cohort)

    def train(self, owner: Owner, study: int, *, well: bool = True) -> None:
        """An owner's training ends."""
        self.tell(f"{owner.name} has trained" if well else f"{owner.name}'s training fails")
        link = next(each for each in self.links if each.name == owner.name and each.study == study and each.here)
        self._run(link, lambda member: owner.trained(study, well=well))

    def die(self, owner: Owner) -> None:
        """An owner's process dies."""
        self.tell(f"{owner.name}'s node dies")
        owner.die()
        for link in self.links:
            if link.name == owner.name:
                link.here = False
                link.down.clear()

    def bury(self, owner: Owner) -> None:
        """And is never started again."""
        if owner.alive:
            self.die(owner)
        self.tell(f"{owner.name} is lost for good")
        self.buried.add(owner.name)

    def revive(self, owner: Owner) -> None:
        """And is started again."""
        self.tell(f"{owner.name}'s node is started")
        owner.start()
        self._look_at(owner)

    def sweep(self) -> None:
        """Forgets connections that nobody has any more."""
        self.links = [link for link in self.links if link.here or (link.there and link.machine in self.machines)]

    def _take_proof(self, link: Link, proof: Proof) -> None:
        link.challenges -= 1
        found = (proof.transcript.ledger_sequence, proof.transcript.ledger_head)
        wanted = max(link.seen, proof.newest)
        if found[0] < wanted[0] or (found[0] == wanted[0] and found[1] != wanted[1]):
            self.leave(link, "it was rolled back")
            return
        link.seen = found
        self._run(link, lambda member: member.proved(proof.transcript))

    def _betray(self, link: Link, heard: Heard) -> None:
        assert link.traitor is not None
        for message, body in link.traitor.answer(heard.message, heard.body):
            if not self.peace and self.chance.random() < 0.05:
                message = spoiled(message, self.chance)
            if isinstance(message, w.Ready):
                self.watch.claims.setdefault(message.commitment, message)
            link.up.append((message, body))

    def _research(self, link: Link, heard: Heard) -> None:
        researcher = self.researchers[link.study]
        try:
            link.up.extend(researcher.answer(heard))
        except (CloisterError, AssertionError) as fault:
            self.leave(link, f"what it hands over is not taken ({fault})")
        # The operator may well be a friend of the researcher's.
        self.loot[link.study].chains.add(researcher.ledger.records)

    def _run(self, link: Link, event: Callable[[members.Member], list[members.Effect]], *, quiet: bool = False) -> None:
        owner = self.owners[link.name]
        try:
            effects = [*event(owner.members[link.study]), *self._at_leisure(owner, link)]
        except Crash:
            self.die(owner)
            return
        finally:
            self._look_at(owner)
        self._do(link, effects, quiet=quiet)

    def _at_leisure(self, owner: Owner, link: Link) -> list[members.Effect]:
        """A node writes the model that it has put off when it has nothing to read. Until then a crash takes it."""
        try:
            if owner.disk is not None and not link.down:
                owner.disk.catch_up(whole=True)
        except RecordsError as fault:
            return [Leave(str(fault))]
        return []

    def _look_at(self, owner: Owner) -> None:
        for study, member in enumerate(owner.members):
            if self._looked.get((owner.name, study)) is not member._ledger:
                self._looked[owner.name, study] = member._ledger
                self.watch.knows(owner.name, study, member._ledger.settled().records)
            void = member._records._of(member.charter.digest).void
            if len(void) > self._voids.get((owner.name, study), 0):
                self._voids[owner.name, study] = len(void)
                self.tell(f"  {owner.name} finds {len(void)} cohorts void")
                for digest in sorted(void):
                    self.watch.voided(owner.name, study, digest)

    def _do(self, link: Link, effects: Sequence[members.Effect], *, quiet: bool = False) -> None:
        owner = self.owners[link.name]
        for effect in effects:
            match effect:
                case members.Say(message=message, bodies=bodies):
                    self._notice(owner, link.study, message)
                    if not quiet:
                        link.up.append((message, b"".join(bodies)))
                case members.Prove(newest=newest):
                    link.challenges += 1
                    link.up.append(Challenge(newest))
                case members.Train():
                    owner.training[link.study] = effect
                case members.Abandon():
                    owner.training.pop(link.study, None)
                case members.Leave(text=text) if link.here:
                    self.leave(link, text)

    def _notice(self, owner: Owner, study: int, message: w.RoundMessage) -> None:
        watch, name = self.watch, owner.name
        self.loot[study].take(message)
        match message:
            case w.Ready():
                watch.offered(name, study, message)
            case w.Declined(round=number, standing=w.Standing() as standing):
                self.tell(f"  {name} declines round {number}: {message.text}")
                watch.answered(name, study, number, standing.answer)
            case w.Declined(round=number, text=text):
                self.tell(f"  {name} declines in round {number}: {text}")
            case w.Contribution():
                watch.contributed(name, study, message)
            case w.Consent(round=number):
                self.tell(f"  {name} consents in round {number}")
                watch.consented(name, study, message, asked=owner.drafts[study, number])
            case w.Commit(round=number):
                self.tell(f"  {name} commits round {number}")
                watch.committed(name, study, message, asked=owner.settles[study, number])


def _told(message: Any) -> str:
    number = getattr(message, "round", None)
    return type(message).__name__ + ("" if number is None else f" {number}")
