"""A job that was accepted, and what of it every round needs."""

from __future__ import annotations

from dataclasses import dataclass, field

from cloister.aggregation.strategies import Strategy
from cloister.ledger.chain import Ledger
from cloister.ledger.job import Job
from cloister.wire.layout import Layout


@dataclass(eq=False)
class Run:
    """A job that runs, or has run."""

    job: Job
    data: bytes
    digest: bytes
    layout: Layout
    rule: Strategy
    researchers: set[str] = field(default_factory=set)
    """The fingerprints of those who submitted it and are there."""
    stopping: str = ""
    """Why it ends before its last round; nothing where it goes on."""
    over: bool = False

    @property
    def nbytes(self) -> int:
        """How long its model's vector is, in bytes."""
        return self.layout.nbytes

    @property
    def averages(self) -> int:
        """How many vectors the rule keeps between rounds."""
        state = self.rule.start(1)
        return (state.momentum is not None) + (state.squares is not None)

    def ended(self, ledger: Ledger) -> bool:
        """Whether no round of it is to follow."""
        return self.over or bool(self.stopping) or ledger.done(self.digest) >= self.job.rounds
