"""The messages of a study: what members and an aggregator say to each other in rounds. docs/wire.md specifies them.

They travel in frames of the kind ROUND once the aggregator has proved itself and a hello with the purpose ``study`` was
welcomed. Either end may speak at any time; what is answered, and by what, stands at each message.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from cloister.wire.fields import Digest, Fingerprint, Message, Name, Text
from cloister.wire.limits import (
    COHORTS,
    JOB_BYTES,
    KEY_BYTES,
    LIST_ITEMS,
    METRICS,
    RECORD_BYTES,
    ROUND_BODY_BYTES,
    SIGNATURE_BYTES,
)
from cloister.wire.tensors import Size

Sequence = Annotated[int, Meta(ge=0, lt=1 << 53)]
RoundNumber = Annotated[int, Meta(ge=1, lt=1 << 53)]
Head = Annotated[bytes, Meta(max_length=32)]
"""A record's hash, or nothing before the first record."""
RecordSize = Annotated[int, Meta(ge=1, le=RECORD_BYTES)]
JobSize = Annotated[int, Meta(ge=1, le=JOB_BYTES)]
Members = Annotated[tuple[Fingerprint, ...], Meta(max_length=LIST_ITEMS)]
Metrics = Annotated[dict[Name, float], Meta(max_length=METRICS)]

# Either way.


class Chain(Message, tag="chain", frozen=True):
    """Records of the ledger from the one numbered ``first`` on; if ``model`` is not 0, also what the last one released.

    The frame's body: the records, as long as ``records`` says; the model's vector, ``model`` bytes; and the vectors of
    the server rule's state, as long as ``state`` says. ``rounds`` is that state's count.
    """

    first: Sequence
    records: Annotated[tuple[RecordSize, ...], Meta(max_length=LIST_ITEMS)]
    model: Size = 0
    rounds: Sequence = 0
    state: Annotated[tuple[Size, ...], Meta(max_length=2)] = ()


# What members say.


class Join(Message, tag="join", frozen=True):
    """The first message: how far the member's copy of the ledger goes, and the highest round that it took part in.

    ``holds``: whether it has the model that the newest record released. Answered by ``HandOver`` where the member has
    other records than the aggregator, and by ``Chain``, which may be empty, once both have the same.
    """

    sequence: Sequence
    head: Head
    round: Annotated[int, Meta(ge=0, lt=1 << 53)]
    holds: bool


class Ready(Message, tag="ready", frozen=True):
    """An owner has trained for this round. Answered by ``Send``, or by ``Refused``.

    ``examples``: the rows behind it, rounded down to a bucket of the charter's. ``norm``, ``buffers``: the L2 norms of
    the contribution's parameters and buffers, which it may not exceed. ``commitment``: SHA-256 of a salt of 32 bytes,
    which the owner keeps, and the contribution's bytes. ``signed``: the
    members of each cohort that it has signed on this model; it signs no other that is too near to one of them.
    """

    round: RoundNumber
    examples: Annotated[int, Meta(ge=1, lt=1 << 53)]
    norm: float
    buffers: float
    metrics: Metrics
    commitment: Digest
    signed: Annotated[tuple[Members, ...], Meta(max_length=COHORTS)] = ()


class Contribution(Message, tag="contribution", frozen=True):
    """The update itself, in the frame's body; the salt of its commitment."""

    round: RoundNumber
    salt: Digest


class Declined(Message, tag="declined", frozen=True):
    """The owner does not take part in this round, or does not sign its cohort; why."""

    round: RoundNumber
    text: Text


class Signature(Message, tag="signature", frozen=True):
    """The member's signature of the cohort that it was asked to sign."""

    round: RoundNumber
    public_key: Annotated[bytes, Meta(max_length=KEY_BYTES)]
    signature: Annotated[bytes, Meta(max_length=SIGNATURE_BYTES)]


class Submit(Message, tag="submit", frozen=True):
    """A researcher's job, the first ``job`` bytes of the body; the rest of it is the model that the job starts from.

    Answered by ``Accepted`` or ``Refused``.
    """

    job: JobSize


class Stop(Message, tag="stop", frozen=True):
    """The researcher ends its job; the round that is under way is finished. Answered by ``Finished``."""


# What the aggregator says.


class HandOver(Message, tag="hand-over", frozen=True):
    """Give me the records after the first ``after``, and the model if you have it. Answered by ``Chain``."""

    after: Sequence


class Work(Message, tag="work", frozen=True):
    """The job that the next rounds are of, in the frame's body."""

    job: Digest


class Propose(Message, tag="propose", frozen=True):
    """Train for this round, within ``seconds``. Answered by ``Ready`` or ``Declined``.

    ``model`` is the model's digest, ``digest`` the round's: what is trained is what both ends compute it from.
    """

    round: RoundNumber
    job: Digest
    model: Digest
    sequence: Sequence
    head: Head
    digest: Digest
    seconds: float


class Send(Message, tag="send", frozen=True):
    """Send the contribution to this round now. Answered by ``Contribution``. May come again for the same round."""

    round: RoundNumber


class Sign(Message, tag="sign", frozen=True):
    """Sign this round's cohort (``cloister.ledger.records.Cohort``). Answered by ``Signature`` or ``Declined``.

    It goes to every owner that is there, also to those who are not in the cohort: they bear witness.
    """

    round: RoundNumber
    cohort: Annotated[bytes, Meta(max_length=ROUND_BODY_BYTES)]


class Over(Message, tag="over", frozen=True):
    """The round is void: nothing comes out of it, and its number is not used again. Why."""

    round: RoundNumber
    text: Text


RefusedCode = Literal["ledger", "job", "round"]
"""What is wrong with it: the records, the job, or what was said of a round."""


class Refused(Message, tag="refused", frozen=True):
    """What was sent for this round (0: no round) is refused and was not used. Why, in a word and in a sentence."""

    round: Annotated[int, Meta(ge=0, lt=1 << 53)]
    code: RefusedCode
    text: Text


class Accepted(Message, tag="accepted", frozen=True):
    """The job is taken; ``done`` of its rounds are in the ledger already."""

    job: Digest
    done: Sequence


class Waiting(Message, tag="waiting", frozen=True):
    """The job goes on once something has changed: what it waits for."""

    text: Text


class Finished(Message, tag="finished", frozen=True):
    """The job is over; ``text`` says why, and is empty where all its rounds are done."""

    job: Digest
    done: Sequence
    text: Text


RoundMessage = (
    Chain
    | Join
    | Ready
    | Contribution
    | Declined
    | Signature
    | Submit
    | Stop
    | HandOver
    | Work
    | Propose
    | Send
    | Sign
    | Over
    | Refused
    | Accepted
    | Waiting
    | Finished
)
