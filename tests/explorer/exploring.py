"""The adversary of the explorer's world: what it does next, by chance."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from cloister.ledger import answers, records
from cloister.ledger.answers import Answer
from cloister.ledger.job import round_digest
from cloister.ledger.records import Share
from cloister.wire import rounds as w
from tests.explorer.parties import Researcher
from tests.explorer.peace import Peace, pacify
from tests.explorer.setting import DIES, RESEARCHER, Setting
from tests.explorer.watching import ViolationError
from tests.explorer.world import INSTANCES, Challenge, Lie, Link, Machine, Proof, World
from tests.support import charters
from tests.support.chains import sign_one
from tests.support.owners import Heard, key_of

TMPFS: Final = Path("/dev/shm")  # noqa: S108 - folders of one's own in it; where there is none, the disk is slower
FAULTS: Final = ("full", "dies before", "dies after")


@dataclass
class Tally:
    """What many schedules came to."""

    schedules: int = 0
    steps: int = 0
    releases: int = 0
    forks: int = 0
    """Schedules that ended with released rounds in two chains."""
    finished: int = 0
    """Studies that were finished once the adversary had stopped."""
    voids: int = 0
    """Schedules in which an owner found a cohort void."""
    stuck: Counter[str] = field(default_factory=Counter)
    """Those that were not, by what kept them."""


class Adversary:
    """It rules the network, the instances and the power supply of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.chance = world.chance
        self._side: dict[str, int] = {}
        """Which of the instances it leads each member to, as a number."""
        self._over = False
        self._acts: list[tuple[Callable[[], bool], int]] = [
            (self._start, 2),
            (self._kill, 2),
            (self._cut_here, 4),
            (self._cut_there, 4),
            (self._crash, 2),
            (self._break_disk, 2),
            (self._divide, 2),
            (self._tick, 2),
            (self._fail, 1),
            (self._forget, 1),
            (self._bury, 1),
            (self._clone, 1),
        ]
        if world.setting.unordered:
            self._acts += [(self._disorder, 12), (self._replay, 6)]
        if world.setting.lying:
            self._acts += [(self._lie, 20), (self._hand_out, 2)]

    def play(self) -> None:
        """The whole schedule."""
        for _ in range(self.world.setting.steps):
            if not self._over:
                self.step()

    def step(self) -> None:
        """One thing happens."""
        if self.chance.random() < self.world.setting.chaos:
            acts, weights = zip(*self._acts, strict=True)
            self.chance.choices(acts, weights)[0]()
        elif self.chance.random() < 0.1 or not self._deliver():
            self._bring_back() or self._tick()

    # What goes on by itself

    def _deliver(self) -> bool:
        moves: list[tuple[Callable[..., None], tuple[object, ...]]] = []
        world = self.world
        for link in world.links:
            if link.arriving is not None:
                moves.append((world.complete, (link,)))
            elif link.up and link.there and link.machine in world.machines:
                moves.append((self._arrive, (link,)))
            if link.down and link.here:
                moves.append((world.hear, (link,)))
            if link.here and not link.there and not link.down:
                moves.append((world.leave, (link, "it is gone")))
            if link.there and not link.here and not link.up:
                moves.append((world.forget, (link,)))
        for owner in world.owners.values():
            moves += [(world.train, (owner, study)) for study in owner.training]
        if moves:
            act, arguments = self.chance.choice(moves)
            act(*arguments)
        world.sweep()
        return bool(moves)

    def _arrive(self, link: Link) -> None:
        item = link.up[0]
        if isinstance(item, Challenge):
            self.world.arrive(link)
            return
        link.up.popleft()
        self.world.tapes.setdefault((link.name, link.study, True), []).append(item)
        machine, released = link.machine, link.machine.ledger.released
        self.world.say(link, item, whole=self.chance.random() < 0.8)
        if machine.ledger.released > released and self.chance.random() < self.world.setting.ambush:
            self._strike(machine)
        elif isinstance(item[0], w.Commit) and self.chance.random() < self.world.setting.ambush / 2:
            what = self.chance.choice(("strike", "kill", "stop"))  # some have committed a cohort that nobody releases
            if what == "strike":
                self._strike(machine)
            elif what == "kill" and machine in self.world.machines:
                self.world.kill(machine)
            self._over = what == "stop"
        elif (
            isinstance(item[0], w.Contribution | w.Consent | w.Commit)
            and self.chance.random() < self.world.setting.ambush / 5
        ):
            self.world.forget(self.chance.choice(list(machine.links.values()) or [link]))

    def _strike(self, machine: Machine) -> None:
        """A round is released: many shall not learn of it, and go on elsewhere."""
        world = self.world
        links = list(machine.links.values())
        self._side = dict.fromkeys(world.setting.owners, 0)
        least = max(0, len(links) - self.chance.choice((1, 1, len(links))))
        for link in self.chance.sample(links, self.chance.randint(least, len(links))):
            self._side[link.name] = 1
            if link.here:
                world.leave(link, "it is cut")
            world.forget(link)
        if sum(each.study == machine.study for each in world.machines) < 2:
            world.start(machine.study)
        if self.chance.random() < 0.3 and machine in world.machines:
            world.kill(machine)

    def _bring_back(self) -> bool:
        world = self.world
        for owner in world.owners.values():
            if not owner.alive and owner.name not in world.buried and self.chance.random() < 0.3:
                world.revive(owner)
                return True
        for study in range(len(world.studies)):
            if not any(machine.study == study for machine in world.machines):
                world.start(study)
        machine = self.chance.choice(world.machines)
        running = [each for each in world.machines if each.study == machine.study]
        absent = [name for name in self._names(machine) if name == RESEARCHER or self._led(name, running) is machine]
        if not absent:
            return False
        world.connect(self.chance.choice(absent), machine)
        return True

    def _names(self, machine: Machine) -> list[str]:
        """Those who could connect to an instance."""
        world = self.world
        honest = [name for name, owner in world.owners.items() if owner.alive]
        placed = {link.name for link in world.links if link.here and link.study == machine.study and link.there}
        present = {link.name for link in machine.links.values() if link.here}
        free = [name for name in (*honest, RESEARCHER) if name not in placed]
        return free + [name for name in sorted(world.setting.traitors) if name not in present]

    def _led(self, name: str, running: list[Machine]) -> Machine | None:
        if name in self.world.setting.traitors:
            return self.chance.choice(running)
        return running[self._side.get(name, 0) % len(running)]

    # What only an adversary does

    def _start(self) -> bool:
        study = self.chance.randrange(len(self.world.studies))
        if sum(machine.study == study for machine in self.world.machines) >= INSTANCES:
            return False
        self.world.start(study)
        return self._divide()

    def _kill(self) -> bool:
        if not self.world.machines:
            return False
        self.world.kill(self.chance.choice(self.world.machines))
        return True

    def _clone(self) -> bool:
        """One more instance with the same keys: a machine is copied before it has heard anything."""
        study = self.chance.randrange(len(self.world.studies))
        running = [machine for machine in self.world.machines if machine.study == study]
        if not 0 < len(running) < INSTANCES:
            return False
        self.world.start(study, clone=self.chance.choice(running))
        return self._divide()

    def _bury(self) -> bool:
        """An owner that has agreed to something dies, and never comes back."""
        world = self.world
        for name in sorted(name for name, how in world.setting.lost.items() if how == DIES):
            owner = world.owners[name]
            if owner.disk is not None and any(owner.disk.consents(study.charter.digest) for study in world.studies):
                world.bury(owner)
                return True
        return False

    def _divide(self) -> bool:
        """Leads each owner to one of the instances."""
        sides = self.chance.choice((1, 2, 2, 3))
        self._side = {name: self.chance.randrange(sides) for name in self.world.setting.owners}
        for link in [link for link in self.world.links if link.here and link.name != RESEARCHER]:
            running = [machine for machine in self.world.machines if machine.study == link.study]
            if running and link.traitor is None and self._led(link.name, running) is not link.machine:
                self.world.leave(link, "it is led elsewhere")
        return True

    def _cut_here(self) -> bool:
        open_links = [link for link in self.world.links if link.here]
        if open_links:
            self.world.leave(self.chance.choice(open_links), "it is cut")
        return bool(open_links)

    def _cut_there(self) -> bool:
        open_links = [link for link in self.world.links if link.there]
        if open_links:
            self.world.forget(self.chance.choice(open_links))
        return bool(open_links)

    def _crash(self) -> bool:
        alive = [owner for owner in self.world.owners.values() if owner.alive]
        if alive:
            self.world.die(self.chance.choice(alive))
        return bool(alive)

    def _break_disk(self) -> bool:
        alive = [owner for owner in self.world.owners.values() if owner.disk is not None]
        if alive:
            owner = self.chance.choice(alive)
            assert owner.disk is not None
            owner.disk.fault = self.chance.choice(FAULTS)
            self.world.tell(f"{owner.name}'s disk, the next time: {owner.disk.fault}")
        return bool(alive)

    def _tick(self) -> bool:
        waiting = [machine for machine in self.world.machines if machine.rounds.due is not None]
        if waiting:
            self.world.tick(self.chance.choice(waiting))
        return bool(waiting)

    def _fail(self) -> bool:
        training = [(owner, study) for owner in self.world.owners.values() for study in owner.training]
        if training:
            owner, study = self.chance.choice(training)
            self.world.train(owner, study, well=False)
        return bool(training)

    def _forget(self) -> bool:
        """The researcher begins anew, with nothing."""
        study = self.chance.randrange(len(self.world.studies))
        for link in [link for link in self.world.links if link.name == RESEARCHER and link.study == study]:
            if link.here:
                self.world.leave(link, "it begins anew")
        self.world.researchers[study] = Researcher(self.world.studies[study])
        return True

    def _disorder(self) -> bool:
        """A message is delivered before its turn, or twice."""
        keep = self.chance.random() < 0.5
        up = [link for link in self.world.links if link.up and link.there and link.machine in self.world.machines]
        down = [link for link in self.world.links if link.down and link.here]
        if up and self.chance.random() < 0.5:
            link = self.chance.choice(up)
            self.world.arrive(link, at=self.chance.randrange(len(link.up)), keep=keep)
        elif down:
            link = self.chance.choice(down)
            at = self.chance.randrange(len(link.down))
            if not isinstance(link.down[at], Proof):
                tape = self.world.tapes.setdefault((link.name, link.study, False), [])
                tape.append(link.down[at])
            self.world.hear(link, at=at, keep=keep)
        return True

    def _replay(self) -> bool:
        """A message of the past is delivered once more, on another connection."""
        links = [link for link in self.world.links if link.here and link.there and link.machine in self.world.machines]
        if links:
            link, up = self.chance.choice(links), self.chance.random() < 0.5
            tape = self.world.tapes.get((link.name, link.study, up))
            if tape and up:
                self.world.say(link, self.chance.choice(tape))
            elif tape:
                self.world.take(link, self.chance.choice(tape))
        return bool(links)

    def _lie(self) -> bool:
        """An instance says what an honest one never would: it asks owners to sign what never was, or shows answers of
        another time, or that nobody gave."""
        world = self.world
        machine = self.chance.choice(world.machines) if world.machines else None
        ledger = machine.ledger if machine is not None else None
        if machine is None or ledger is None or ledger.signer != machine.signer:
            return False
        links = [link for link in machine.links.values() if link.here and link.name in world.owners]
        numbers = [number for study, _, number in world.watch.offers if study == machine.study]
        last = max(numbers, default=ledger.last_round + 1)
        number = self.chance.choice((last, last, last, ledger.last_round + 1, last + 1))
        lies = (self._invent, self._settle, self._show, self._pull, self._propose)
        said = self.chance.choices(lies, (4, 6, 2, 1, 1))[0](machine, number)
        if said is not None and self.chance.random() < 0.3:
            links = self.chance.sample(links, self.chance.randint(0, len(links)))
        for link in links if said is not None else ():
            link.down.append(Lie(said, b""))
        return bool(links)

    def _invent(self, machine: Machine, number: int) -> w.Draft:
        """A draft of any owners, or of any that have trained for this round."""
        setting, offers = self.world.setting, self.world.watch.offers
        trained = [
            name for name in setting.owners if (machine.study, name, number) in offers or name in setting.traitors
        ]
        some = trained if len(trained) >= setting.floor and self.chance.random() < 0.8 else setting.owners
        names = self.chance.sample(some, self.chance.randint(setting.floor, len(some)))
        return w.Draft(number, invented(self.world, machine, names, number=number, salt=self.chance.randbytes(32)))

    def _settle(self, machine: Machine, number: int) -> w.Settle | None:
        """A cohort to which honest owners have consented, with the consents of traitors, and any outcome."""
        world, loot, head = self.world, self.world.loot[machine.study], machine.ledger.head
        traitors = {key_of(name) for name in world.setting.traitors}
        found = []
        for encoded in loot.cohorts:
            cohort, consents = records.decode_cohort(encoded), loot.consents[records.cohort_digest(encoded)]
            members = {share.member for share in cohort.shares}
            if (cohort.signer, cohort.previous) == (machine.signer, head) and len(
                members - traitors - set(consents)
            ) < 2:
                found.append((encoded, cohort.round, members & traitors, consents))
        if not found:
            return None
        encoded, number, betrayed, consents = self.chance.choice(found)
        for key in sorted(betrayed):
            signer = charters.key_of(world.watch.names[key])
            consents[key] = sign_one(records.consent_to_be_signed(encoded), signer)
        outcome = self.chance.choice((bytes(32), bytes(32), bytes(32), self.chance.randbytes(32)))
        return w.Settle(number, encoded, outcome, tuple(consents[each] for each in sorted(consents)))

    def _show(self, machine: Machine, number: int) -> w.Answers:
        """Answers of any time, traitors' that say what is wanted, and some that nobody has signed."""
        world, study = self.world, self.world.studies[machine.study]
        loot, shown = world.loot[machine.study], list[w.SignedAnswer]()
        shown += self.chance.sample(loot.answers, min(len(loot.answers), self.chance.choice((4, 16, 64))))
        settled = machine.ledger.settled()
        for name in world.setting.owners:
            forged = name not in world.setting.traitors
            if forged and self.chance.random() < 0.5:
                continue
            answer = Answer(
                format="cloister answer 1",
                charter=study.charter.digest,
                round=1 << 20,
                sequence=settled.sequence,
                head=settled.head,
                committed=(),
            )
            signed = answers.sign(answer, key=charters.key_of(name))
            if forged:
                spoilt = bytes(len(signed.signature.signature))
                signed = w.SignedAnswer(signed.answer, msgspec.structs.replace(signed.signature, signature=spoilt))
            shown.append(signed)
        self.chance.shuffle(shown)
        return w.Answers(number, tuple(shown))

    def _pull(self, machine: Machine, number: int) -> w.Send:
        """A contribution is wanted, whoever has agreed to what."""
        return w.Send(number)

    def _propose(self, machine: Machine, number: int) -> w.Propose:
        """A round with any number, out of its turn."""
        ledger, study = machine.ledger, self.world.studies[machine.study]
        number, model = number + self.chance.choice((0, 1)), ledger.model or b""
        return w.Propose(
            round=number,
            job=study.digest,
            model=model,
            sequence=ledger.sequence,
            head=ledger.head,
            digest=round_digest(
                study.digest, charter=study.charter.digest, number=number, model=model, head=ledger.head
            ),
            seconds=60.0,
        )

    def _hand_out(self) -> bool:
        """An instance hands out another chain than its own: an older one, or a fork."""
        world = self.world
        links = [link for link in world.links if link.here and link.name in world.owners]
        if not links:
            return False
        link = self.chance.choice(links)
        known = {machine.ledger.records for machine in world.machines if machine.study == link.study}
        chain = self.chance.choice(sorted(known | world.loot[link.study].chains) or [()])
        chain = chain[: self.chance.choice((len(chain), self.chance.randint(0, len(chain))))]
        link.down.append(Heard(w.Chain(1, tuple(map(len, chain))), b"".join(chain)))
        return True


def invented(world: World, machine: Machine, names: Sequence[str], *, number: int, salt: bytes) -> bytes:
    """A cohort of these owners that stands in the right place of an instance's ledger. ``salt``: what stands for the
    commitments of those that have offered nothing."""
    ledger, study = machine.ledger, world.studies[machine.study]
    offers, model = world.watch.offers, ledger.model or b""
    shares = [
        Share(
            key_of(name),
            1 / len(names),
            offers.get((machine.study, name, number), hashlib.sha256(salt + name.encode()).digest()),
        )
        for name in sorted(names)
    ]
    return records.encode(
        records.Cohort(
            format="cloister cohort 4",
            charter=study.charter.digest,
            sequence=ledger.sequence + 1,
            previous=ledger.head,
            signer=machine.signer,
            round=number,
            job=study.digest,
            digest=round_digest(
                study.digest, charter=study.charter.digest, number=number, model=model, head=ledger.head
            ),
            name=study.job.name,
            model=model,
            shares=tuple(sorted(shares, key=lambda share: share.member)),
            noise=None,
        )
    )


def explore(seed: int, tally: Tally, **bent: Any) -> None:
    """One schedule from its seed; ``bent``: as in ``Setting.drawn``.

    Raises:
        ViolationError: with the seed and the steps, or whatever else went wrong in one of the processes.
    """
    setting = Setting.drawn(seed, **bent)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=TMPFS if TMPFS.is_dir() else None))
        world = World(setting, Path(folder))
        stack.callback(world.close)
        try:
            Adversary(world).play()
            pacify(world)
            for study in range(len(world.studies)):
                done = Peace(world, study).finish()
                tally.finished += not done
                tally.stuck.update([done] if done else [])
        except Exception as fault:
            raise ViolationError(f"{type(fault).__name__}: {fault}\n{setting}\n" + "\n".join(world.told)) from fault
        tally.schedules += 1
        tally.steps += len(world.told)
        tally.releases += len(world.watch.receipts)
        tally.voids += any(world.watch.voids.values())
        tally.forks += any(_forked(world, study) for study in range(len(world.studies)))


def _forked(world: World, study: int) -> bool:
    """Whether two of the rounds that were released follow the same record, or start from the same model."""
    charter = world.studies[study].charter.digest
    found = [receipt.cohort for receipt in world.watch.receipts.values() if receipt.cohort.charter == charter]
    return len({cohort.model for cohort in found}) < len(found)
