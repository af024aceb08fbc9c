"""What is left of the explorer's world once the adversary stops: the study has to finish."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Final

import numpy as np

from cloister.ledger.chain import Ledger, quorum, votes_to_void
from cloister.node.study.entries import Committed
from tests.explorer.parties import Disk, Researcher
from tests.explorer.setting import DIES, LENGTH, RESEARCHER, TAG
from tests.explorer.watching import ViolationError
from tests.explorer.world import Machine, World
from tests.support.owners import first_model, key_of

ROUNDS: Final = 16
"""After so many rounds without a release nothing will come of further ones."""


class Peace:
    """What is left once the adversary has stopped: one instance, and honest owners that stay. Others are gone for good,
    or are there and silent (``Setting.lost``); and some traitors still lie when they answer, but otherwise keep to the
    rules."""

    def __init__(self, world: World, study: int) -> None:
        self.world = world
        self.study = study
        self.charter = world.studies[study].charter
        self.agreed = world.studies[study].agreed
        self.digest = world.studies[study].digest

    def finish(self) -> str:
        """Why the study cannot be finished; empty if it is.

        Raises:
            ViolationError: it could, and it is not.
        """
        newest, group = self._group()
        if newest is None:
            return "too few"
        self._forget_forks(newest)
        machine = self.world.start(self.study)
        self.world.connect(RESEARCHER, machine)
        for name in group:
            self.world.connect(name, machine)
        for name in sorted(self.world.setting.liars):
            self.world.connect(name, machine)
        if self._go_on(machine):
            self._check(machine.ledger)
            return ""
        stay = [name for name in group if name not in self.world.setting.lost]
        return Halt(self.world, self.study, machine, stay).explained()

    def _forget_forks(self, newest: Ledger) -> None:
        researcher = self.world.researchers[self.study]
        if researcher.ledger.records != newest.records[: researcher.ledger.sequence]:
            self.world.researchers[self.study] = Researcher(self.world.studies[self.study])  # it was shown a fork

    def _go_on(self, machine: Machine) -> bool:
        """Whether the study is finished when nothing happens any more.

        Raises:
            ViolationError: there is no end to what happens.
        """
        for _ in range(20_000):
            if machine.ledger.done(self.digest) >= self.agreed.rounds and not self._busy():
                return True
            if not self._settle():
                between = not machine.rounds._course.under_way
                if machine.rounds.due is None or (between and machine.proposed >= ROUNDS):
                    return False
                self.world.tick(machine)
        raise ViolationError(f"the study never ends: {machine.notes[-3:]}")

    def _group(self) -> tuple[Ledger | None, tuple[str, ...]]:
        """The newest ledger that a quorum of owners who stay can go on with, and all who can: those with a ledger that
        is part of it. No two of those that stay are on different forks, one of them holds the newest model, and the
        silent ones know nothing newer."""
        world = self.world
        alive = [name for name, owner in world.owners.items() if owner.disk is not None]
        chains = {name: world.owners[name].members[self.study]._ledger.settled() for name in alive}
        stay = [name for name in alive if name not in world.setting.lost]
        for size in range(len(stay), quorum(self.charter) - 1, -1):
            for group in combinations(sorted(stay), size):
                newest = max((chains[name] for name in group), key=lambda ledger: ledger.released)
                can = [name for name in alive if newest.records[: chains[name].sequence] == chains[name].records]
                if set(group) <= set(can) and self._is_held(group, newest):
                    return newest, tuple(name for name in can if name in group or name not in stay)
        return None, ()

    def _is_held(self, group: Sequence[str], newest: Ledger) -> bool:
        disks = [self.world.owners[name].disk for name in group]
        model = newest.model, newest.state
        return not newest.released or any(
            disk is not None and disk.kept(self.charter.digest) == model for disk in disks
        )

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


class Halt:
    """A study that does not go on. Names are fingerprints, as owners' records have them.

    ``stay``: the names of the honest owners that were there all the time; they are a quorum.
    """

    def __init__(self, world: World, study: int, machine: Machine, stay: Sequence[str]) -> None:
        self.charter = world.studies[study].charter
        self.floor = self.charter.limits.floor
        self.machine = machine
        self.ledger = machine.ledger
        self.disks = {key_of(name): world.owners[name].disk for name in stay}
        self.able = frozenset(each for each in self.disks if self._disk(each).spent(TAG) < self.charter.limits.rounds)
        """Those with budget left."""
        self.listed = {each: self._listed(each) for each in self.disks}
        """What each of them lists when it answers: what it has committed and what may be released, by digest."""

    def explained(self) -> str:
        """What explains it, in words.

        Raises:
            ViolationError: nothing does.
        """
        notes = self.machine.notes[-3:]
        for each in self.disks:
            self._check_told(each)
        sizes = range(self.floor, len(self.able) + 1)
        for cohort in (frozenset(each) for size in sizes for each in combinations(sorted(self.able), size)):
            if self._would_be_released(cohort):
                raise ViolationError(f"the study comes to a halt, and {len(cohort)} owners could go on: {notes}")
        if len(self.able) < self.floor:
            return "budgets are spent"
        held = {digest: entry for listed in self.listed.values() for digest, entry in listed.items()}
        on_model = [entry for entry in held.values() if entry.model == self.ledger.model]
        if any(not self.able.issuperset(entry.members) for entry in on_model):
            return "a member of a cohort that may be released is gone"
        if any(
            self._disk(each).consented_elsewhere(self.ledger.model or b"", charter=self.charter.digest)
            for each in self.disks
        ):
            return "another charter"
        raise ViolationError(f"the study comes to a halt, and nobody is gone: {notes}")

    def _disk(self, name: str) -> Disk:
        disk = self.disks[name]
        assert disk is not None
        return disk

    def _listed(self, name: str) -> dict[bytes, Committed]:
        disk, charter = self._disk(name), self.charter.digest
        return {entry.cohort: entry for entry in disk.commits(charter).values() if self._is_open(disk, entry.cohort)}

    def _is_open(self, disk: Disk, cohort: bytes) -> bool:
        return cohort not in self.ledger.cohorts and not disk.is_void(self.charter.digest, cohort)

    def _check_told(self, name: str) -> None:
        """An owner has been told that a cohort is void if so many of those that are there have not committed it."""
        disk = self._disk(name)
        last = self.machine.rounds._course.highest
        agreed = {entry.cohort for entry in disk.consents(self.charter.digest) if entry.round < last}
        agreed |= {entry.cohort for entry in self.listed[name].values() if entry.round < last}
        for cohort in agreed:
            against = sum(cohort not in listed for listed in self.listed.values())
            if self._is_open(disk, cohort) and against >= votes_to_void(self.charter):
                raise ViolationError(
                    f"the study comes to a halt, and an owner was not told what is void: {self.machine.notes[-3:]}"
                )

    def _would_be_released(self, cohort: frozenset[str]) -> bool:
        """Whether all of a cohort would consent to it, and a quorum would commit it.

        An owner that has agreed to a cohort under another charter commits any other, unless it has committed that one
        too. The aggregator is not told the difference, and does not count on it.
        """
        model, charter = self.ledger.model or b"", self.charter.digest
        willing, consenting = 0, True
        for name in self.disks:
            disk = self._disk(name)
            elsewhere = [each.members for each in disk.consented_elsewhere(model, charter=charter)]
            committed = [each.members for each in disk.committed_on(model, charter=charter)]
            willing += all(self._is_far(cohort, each) for each in (*elsewhere, *committed))
            consenting &= name not in cohort or all(self._is_far(cohort, each) for each in elsewhere)
        return consenting and willing >= quorum(self.charter)

    def _is_far(self, cohort: frozenset[str], other: Iterable[str]) -> bool:
        return not 0 < len(cohort.symmetric_difference(other)) < self.floor


def pacify(world: World) -> None:
    """The adversary stops: everything is switched off, and owners' nodes are started again."""
    for link in list(world.links):
        if link.here:
            world.leave(link, "everything is switched off")
    for machine in list(world.machines):
        world.kill(machine)
    world.links.clear()
    world.peace = True
    for owner in world.owners.values():
        if owner.alive:
            owner.die()
        if world.setting.lost.get(owner.name) == DIES:
            world.buried.add(owner.name)
        if owner.name not in world.buried:
            world.revive(owner)
