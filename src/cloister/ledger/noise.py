"""The noise of a round, as its cohort says it: members consent to it, and whoever reads a chain adds up what it cost.

It follows from the charter and the job. It is told in the cohort all the same, so that each member signs the numbers
that its own budget is spent by, and a chain can be accounted for without any plan.
"""

from __future__ import annotations

from cloister.charter.charter import Limits
from cloister.charter.jobs import AgreedJob
from cloister.ledger.records import Noised


def noise_of(limits: Limits, agreed: AgreedJob) -> Noised | None:
    """What is added to a job's rounds; None where nothing is. Owners whose part is hidden as a whole are not drawn."""
    if limits.noise is None:
        return None
    rate = 1.0 if agreed.sampling is None else agreed.sampling.rate
    return Noised(limits.noise.unit, limits.noise.multiplier, rate, limits.clip)
