"""The jobs of a charter: everything that a round's outcome depends on, beside the owners' data, as exact values.

A job that a researcher submits names one of these and has no numbers of its own. With numbers that it could choose, an
honest plan and an honest model were enough to make the mean of a round one owner's one row: a schedule that makes one
step count, a last batch of one row, dampening, two jobs that differ by a row in a batch. So numbers are agreed on;
``cloister.charter.job_bounds`` says which nobody may agree on, ``cloister.charter.jobs_toml`` reads and writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias, get_args

from msgspec import Meta

from cloister.wire.fixed_point import SUM_BYTES
from cloister.wire.layout import HALF_BYTES, Half, Layout
from cloister.wire.optimizers import Optimizer
from cloister.wire.strategies import FedProx, Strategy

JOBS: Final = 64
"""The most jobs of a charter."""
STEPS: Final = 1 << 20
"""The most steps of a round."""
WEEK_S: Final = 7 * 24 * 3600
COUNT: Final = (1 << 53) - 1
FEWEST_BATCHES: Final = 2
"""The least whole batches of an owner that takes part: else each of its steps would be of the same rows."""
REASON_CHARS: Final = 512

Whole: TypeAlias = Annotated[int, Meta(ge=1, le=COUNT)]
Weights = Literal["uniform", "rows"]
WEIGHTS: Final[tuple[Weights, ...]] = get_args(Weights)
Precision = Literal["full", "bfloat16", "float16"]
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a round's rows are drawn where noise hides one of them: each by itself, all with the same probability
    (Abadi et al.: "Deep Learning with Differential Privacy", CCS 2016, Algorithm 1). One round is one step then."""

    rate: Annotated[float, Meta(gt=0, le=1)]
    """That probability."""
    rows: Whole
    """What the sum over all drawn rows is divided by, whatever their number: about ``rate`` times all owners' rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreedJob:
    """One job: the computation of each of its ``rounds`` rounds."""

    name: str
    plan: Annotated[bytes, Meta(min_length=32, max_length=32)]
    """SHA-256 of the plan that owners' nodes run."""
    data: str
    """The tag of the data sets that owners train on."""
    rounds: Whole
    batch_size: Whole
    """The rows behind each step: of every owner, in every step. Where rows are drawn, those that are computed at once,
    which changes nothing but time and memory."""
    steps: Annotated[int, Meta(ge=1, le=STEPS)]
    """The steps of every owner in a round."""
    optimizer: Optimizer
    """What owners train with; it begins anew in each round."""
    strategy: Strategy
    """What becomes of the mean of their contributions."""
    weights: Weights
    """``uniform``: every owner counts the same. ``rows``: by its rows, in the buckets of the charter's limits."""
    max_s: Annotated[int, Meta(ge=1, le=WEEK_S)]
    """The time that owners have for one round's training, in seconds."""
    unsafe_lr: str | None = None
    """The reason for a learning rate out of its bounds; None where there is none."""
    sampling: Sampling | None = None
    """How rows are drawn where noise hides one of them; None where it does not."""
    precision: Precision = "full"
    """The element type in which contributions and the step of a round travel (``cloister.wire.halves``); ``full``: the
    model's own."""

    @property
    def half(self) -> Half | None:
        """The element type of two bytes in which values travel; None where they do so in full."""
        return None if self.precision == "full" else self.precision

    def contribution_bytes(self, layout: Layout) -> int:
        """The length of a contribution to one of its rounds: a value for each of the model's, or a sum on the grid."""
        if self.sampling is not None:
            return layout.length * SUM_BYTES
        return layout.nbytes if self.half is None else layout.length * HALF_BYTES

    @property
    def proximal(self) -> float:
        """The mu of FedProx, which owners train with; 0 under another strategy."""
        return self.strategy.mu if isinstance(self.strategy, FedProx) else 0.0
