"""The effects of an owner's decisions: its node does them next (``cloister.node.study.member``)."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from cloister.charter.jobs import AgreedJob
from cloister.ledger.sync import Values
from cloister.wire import rounds as w
from cloister.worker.data.salts import Seeds


class Say(NamedTuple):
    """Send this message to the aggregator, with these bodies one after the other."""

    message: w.RoundMessage
    bodies: tuple[Values, ...] = ()


class Prove(NamedTuple):
    """Challenge the instance on this connection, whose ledger goes at least this far; pass its answer to ``proved``."""

    newest: tuple[int, bytes]


class Draw(NamedTuple):
    """The rows of a round, where noise hides each of them (``cloister.worker.record_sums``)."""

    key: bytes
    """32 secret bytes, which choose them; other ones in each round."""
    rate: float
    rows: int
    """What the charter's job expects of all owners together."""


class Train(NamedTuple):
    """Train, and call ``trained`` or ``failed``."""

    round: int
    job: bytes
    """Encoded."""
    model: Values
    """The vector that the round starts from."""
    agreed: AgreedJob
    """The charter's job that it is."""
    nbytes: int
    """The length of the result, in bytes."""
    data: str
    seeds: Seeds
    clip: float
    clip_buffers: float | None
    least: int
    """The least rows that the data set may have."""
    files: tuple[bytes, ...] = ()
    """SHA-256 of the files in which the frozen tensors of its base are."""
    home: Values = b""
    """The vector of the buffers that stay here, as the last released round left them; empty before the first."""
    home_bytes: int = 0
    """Its length, where there are such buffers: the new ones come after the result."""
    hidden: bool = False
    """Whether noise hides its owner as a whole: what fails on the data is then zeros, since no answer would tell."""
    draw: Draw | None = None
    """How rows are drawn where noise hides them; None where all steps are of whole batches."""


class Abandon(NamedTuple):
    """Stop a training for this round: nobody wants its result any more."""

    round: int


class Leave(NamedTuple):
    """End the connection, because nothing can be done with this aggregator; ``text`` says why."""

    text: str


class Note(NamedTuple):
    """A line for the owner's log; ``warns``: of what the owner may have to see to."""

    text: str
    warns: bool = False


Effect: TypeAlias = Say | Prove | Train | Abandon | Leave | Note
