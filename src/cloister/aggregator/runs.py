"""A job that was accepted, and the parts of it that every round needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cloister.aggregation.strategies import Strategy
from cloister.charter.jobs import AgreedJob
from cloister.ledger.chain import Ledger
from cloister.ledger.job import Job
from cloister.wire.layout import Layout, Regions


SIGNING_S: Final = 30.0
"""The least time that owners have to sign something of a round. Members that have not consented by then are left out of
the next draft; an owner that was asked to commit, and said nothing, does not keep others from another round."""


@dataclass(eq=False)
class Run:
    """A job that runs, or has run."""

    job: Job
    agreed: AgreedJob
    data: bytes
    digest: bytes
    layout: Layout
    regions: Regions
    rule: Strategy
    researchers: set[str] = field(default_factory=set)
    """The fingerprints of the connected researchers that submitted it."""
    submitters: set[str] = field(default_factory=set)
    """Those of all researchers that have submitted it, connected or not."""
    stopping: str = ""
    """The reason why it ends before its last round; empty while it goes on."""
    over: bool = False

    @property
    def signing_s(self) -> float:
        """The time that owners have to sign something of one of its rounds: a tenth of what they have to train, where
        that is longer."""
        return max(SIGNING_S, self.agreed.max_s / 10)

    @property
    def nbytes(self) -> int:
        """The length of its model's vector, in bytes."""
        return self.layout.nbytes

    @property
    def averages(self) -> int:
        """The number of vectors that the strategy keeps between rounds."""
        state = self.rule.start(1)
        return (state.momentum is not None) + (state.squares is not None)

    def ended(self, ledger: Ledger) -> bool:
        """Whether it has no further rounds."""
        return self.over or bool(self.stopping) or ledger.rounds_of(self.agreed.name) >= self.agreed.rounds
