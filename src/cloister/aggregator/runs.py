"""A job that was accepted, and the parts of it that every round needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cloister.charter.jobs import AgreedJob
from cloister.ledger.chain import Ledger
from cloister.ledger.job import Job
from cloister.wire.layout import Layout, Regions

SIGNING_S: Final = 30.0
"""The least time that owners have to sign something of a round. Members that have not consented by then are left out of
the next draft; an owner that was asked to commit, and said nothing, does not keep others from another round."""


IDLE_S: Final = 3600.0


@dataclass(eq=False)
class Run:
    """A job that runs, or has run."""

    job: Job
    agreed: AgreedJob
    data: bytes
    digest: bytes
    layout: Layout
    regions: Regions
    researchers: set[str] = field(default_factory=set)
    """The fingerprints of the connected researchers that submitted it."""
    submitters: set[str] = field(default_factory=set)
    """Those of the researchers whose job it is, connected or not: who submitted it first, and who did when it could be
    stopped by anybody."""
    stopping: str = ""
    """The reason why it ends before its last round; empty while it goes on."""
    over: bool = False
    moved: float = 0.0
    """When it began, or its newest round was released."""

    @property
    def signing_s(self) -> float:
        """The time that owners have to sign something of one of its rounds: a tenth of what they have to train, where
        that is longer."""
        return max(SIGNING_S, self.agreed.max_s / 10)

    @property
    def contribution_bytes(self) -> int:
        """The length of a contribution, in bytes."""
        return self.agreed.contribution_bytes(self.layout)

    def may_stop(self, member: str, *, now: float) -> bool:
        """Whether a researcher may stop it: one that submitted it; or anyone, where those have all left, or nothing was
        released for so long that it only keeps others waiting."""
        return not self.researchers or member in self.submitters or now - self.moved >= self.idle_s

    @property
    def idle_s(self) -> float:
        """The time without a release after which it may be stopped by any researcher of the charter: that of two
        rounds, and an hour at least."""
        return max(IDLE_S, 2.0 * self.agreed.max_s)

    def occupies(self, ledger: Ledger) -> str:
        """Why another job cannot begin, when it may, and what a researcher can do about it."""
        charter, name = ledger.charter, self.agreed.name
        names = sorted(found.name for key in self.submitters if (found := charter.member(key)) is not None)
        left = self.agreed.rounds - ledger.rounds_of(name)
        whose = f" of {', '.join(names)}" if names else ""
        return (
            f"another job is under way, and there is one at a time: {name!a}{whose}, with {left} of"
            f" {self.agreed.rounds} rounds left, {self.agreed.max_s} s each at most for training. Submit yours once it"
            " is over. You can stop it (cloister study stop) where its researchers have all left, or once nothing was"
            f" released for {self.idle_s:g} s"
        )

    def ended(self, ledger: Ledger) -> bool:
        """Whether it has no further rounds."""
        return self.over or bool(self.stopping) or ledger.rounds_of(self.agreed.name) >= self.agreed.rounds


def begin(job: Job, agreed: AgreedJob, *, data: bytes, digest: bytes) -> Run:
    """A job that begins, or goes on."""
    return Run(job, agreed, data, digest, job.layout, job.regions)
