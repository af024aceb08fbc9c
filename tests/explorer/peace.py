"""What is left of the explorer's world once the adversary stops: the study has to finish."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from cloister.ledger.chain import Ledger, quorum
from tests.explorer.parties import Researcher
from tests.explorer.setting import LENGTH, RESEARCHER, TAG
from tests.explorer.watching import ViolationError
from tests.explorer.world import Machine, World
from tests.support.owners import first_model, key_of


class Peace:
    """What is left once the adversary has stopped: one instance, and owners who can go on together."""

    def __init__(self, world: World, study: int) -> None:
        self.world = world
        self.study = study
        self.charter = world.studies[study].charter
        self.agreed = world.studies[study].agreed
        self.digest = world.studies[study].digest

    def finish(self) -> bool | None:
        """Whether the study is finished; None where no owners are left who could.

        Owners who could at first may find that they cannot: with the same data another charter comes to the same
        models, on which they have signed with others. Then those others have to come too.

        Raises:
            ViolationError: they could, and it is not.
        """
        newest, group = self._group()
        if newest is None:
            return None
        self._forget_forks(newest)
        machine = self.world.start(self.study)
        self.world.connect(RESEARCHER, machine)
        halts = set()
        while newest is not None:
            self._gather(machine, group)
            if self._go_on(machine):
                self._check(machine.ledger)
                return True
            halts.add((machine.ledger.released, group))
            newest, group = self._group()
            if newest is not None and (newest.released, group) in halts:
                raise ViolationError(f"the study comes to a halt: {machine.notes[-3:]}")
        return None

    def _forget_forks(self, newest: Ledger) -> None:
        researcher = self.world.researchers[self.study]
        if researcher.ledger.records != newest.records[: researcher.ledger.sequence]:
            self.world.researchers[self.study] = Researcher(self.world.studies[self.study])  # it was shown a fork

    def _gather(self, machine: Machine, group: tuple[str, ...]) -> None:
        """Whoever is of the group is there, and no other owner."""
        here = [link for link in machine.links.values() if link.here and link.name != RESEARCHER]
        for link in here:
            if link.name not in group:
                self.world.leave(link, "it is not asked to come")
        for name in sorted(set(group) - {link.name for link in here}):
            self.world.connect(name, machine)

    def _go_on(self, machine: Machine) -> bool:
        """Whether the study is finished when nothing happens any more.

        Raises:
            ViolationError: there is no end to what happens.
        """
        for _ in range(5_000):
            if machine.ledger.done(self.digest) >= self.agreed.rounds and not self._busy():
                return True
            if not self._settle():
                if machine.rounds.due is None:
                    return False
                self.world.tick(machine)
        raise ViolationError(f"the study never ends: {machine.notes[-3:]}")

    def _group(self) -> tuple[Ledger | None, tuple[str, ...]]:
        """The largest set of owners who could release the next rounds together, and the newest ledger among them."""
        world = self.world
        owners = {name: owner.members[self.study] for name, owner in world.owners.items()}
        chains = {name: member._ledger.settled() for name, member in owners.items()}
        least = quorum(self.charter)
        for size in range(len(owners), least - 1, -1):
            for group in combinations(sorted(owners), size):
                newest = max((chains[name] for name in group), key=lambda ledger: ledger.released)
                if self._could(group, newest):
                    return newest, group
        return None, ()

    def _could(self, group: tuple[str, ...], newest: Ledger) -> bool:
        world, limits = self.world, self.charter.limits
        wanted = self.agreed.rounds - newest.done(self.digest)
        signed: dict[str, tuple[frozenset[str], ...]] = {}
        held = not newest.released
        for name in group:
            owner = world.owners[name]
            member, disk = owner.members[self.study], owner.disk
            assert disk is not None
            ledger = member._ledger.settled()
            if newest.records[: ledger.sequence] != ledger.records:
                return False  # it is on a fork
            if wanted and disk.spent(TAG) + wanted > limits.rounds:
                return False
            signed[key_of(name)] = disk.on_model(newest.model or b"", charter=self.charter.digest)
            held = held or disk.kept(self.charter.digest) == (newest.model, newest.state)
        return held and wanted <= limits.rounds - newest.released and self._would_sign(signed)

    def _would_sign(self, signed: dict[str, tuple[frozenset[str], ...]]) -> bool:
        """Whether there is any cohort of them that all in it would sign, and a quorum of them."""
        floor = self.charter.limits.floor
        for size in range(floor, len(signed) + 1):
            for cohort in map(frozenset, combinations(signed, size)):
                willing = {
                    name
                    for name, others in signed.items()
                    if not any(0 < len(cohort ^ other) < floor for other in others)
                }
                if cohort <= willing and len(willing) >= quorum(self.charter):
                    return True
        return False

    def _busy(self) -> bool:
        return any((link.up and link.there) or (link.down and link.here) for link in self.world.links)

    def _settle(self) -> bool:
        """The next message arrives, or training ends; in order."""
        world = self.world
        for link in world.links:
            if link.up and link.there:
                world.arrive(link)
                return True
            if link.down and link.here:
                world.hear(link)
                return True
        for owner in world.owners.values():
            for study in list(owner.training):
                world.train(owner, study)
                return True
        return False

    def _check(self, ledger: Ledger) -> None:
        """The model that the researcher got is the mean of means, computed by hand."""
        watch = self.world.watch
        model = first_model(LENGTH).astype(np.float64)
        for receipt in ledger.receipts:
            shares = {watch.names[share.member]: share for share in receipt.cohort.shares}
            found = {
                name: watch.contribution(name, receipt.cohort.round, share.commitment) for name, share in shares.items()
            }
            model = model + watch.average(found)
        researcher = self.world.researchers[self.study]
        received = np.frombuffer(researcher.model[1][: LENGTH * 4], np.float32)
        if not all(np.allclose(each, model, atol=1e-5) for each in (received, watch.models[ledger.model or b""])):
            raise ViolationError("the study has ended with another model than the mean of its contributions")


def pacify(world: World) -> None:
    """The adversary stops: everything is switched off, and owners' nodes are started again."""
    for link in list(world.links):
        if link.here:
            world.leave(link, "everything is switched off")
    for machine in list(world.machines):
        world.kill(machine)
    world.links.clear()
    for owner in world.owners.values():
        if owner.alive:
            owner.die()
        world.revive(owner)
