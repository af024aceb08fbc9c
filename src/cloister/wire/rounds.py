"""The messages of a study: what members and an aggregator say to each other in rounds. docs/wire.md specifies them.

They travel in frames of the kind ROUND once the aggregator has proved itself and a hello with the purpose ``study`` was
welcomed. Either end may speak at any time; what is answered, and by what, stands at each message.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from cloister.wire.fields import Digest, Fingerprint, Message, Name, Text
from cloister.wire.limits import (
    ANSWER_BYTES,
    ELSEWHERE,
    JOB_BYTES,
    KEY_BYTES,
    LIST_ITEMS,
    MEMBERS,
    METRICS,
    REASON_CHARS,
    RECORD_BYTES,
    ROUND_BODY_BYTES,
    SIGNATURE_BYTES,
)
from cloister.wire.tensors import Size

Sequence = Annotated[int, Meta(ge=0, lt=1 << 53)]
RoundNumber = Annotated[int, Meta(ge=1, lt=1 << 53)]
Head = Annotated[bytes, Meta(max_length=32)]
"""A record's hash, or nothing before the first record."""
Reason = Annotated[str, Meta(max_length=REASON_CHARS)]
Reasons = Annotated[dict[Fingerprint, Reason], Meta(max_length=MEMBERS)]
RecordSize = Annotated[int, Meta(ge=1, le=RECORD_BYTES)]
JobSize = Annotated[int, Meta(ge=1, le=JOB_BYTES)]
Members = Annotated[tuple[Fingerprint, ...], Meta(max_length=LIST_ITEMS)]
Metrics = Annotated[dict[Name, float], Meta(max_length=METRICS)]

# Either way.


class MemberSignature(Message, frozen=True):
    """A member's signature of what the message or record that it stands in says."""

    member: Fingerprint
    public_key: Annotated[bytes, Meta(max_length=KEY_BYTES)]
    signature: Annotated[bytes, Meta(max_length=SIGNATURE_BYTES)]


class Chain(Message, tag="chain", frozen=True):
    """Records of the ledger from the one numbered ``first`` on; if ``model`` is not 0, also what the last one released;
    or, if ``step`` is not 0, the mean by which whoever holds the model before, and its state, makes it.

    The frame's body: the records, as long as ``records`` says; the model's vector, ``model`` bytes; the vectors of the
    server rule's state, as long as ``state`` says; and the mean, ``step`` bytes. ``rounds`` is that state's count.
    """

    first: Sequence
    records: Annotated[tuple[RecordSize, ...], Meta(max_length=LIST_ITEMS)]
    model: Size = 0
    rounds: Sequence = 0
    state: Annotated[tuple[Size, ...], Meta(max_length=2)] = ()
    step: Size = 0


# What members say.


class Join(Message, tag="join", frozen=True):
    """The first message: how far the member's copy of the ledger goes, and the highest round that it took part in.

    ``holds``: whether it has the model that the newest record released. ``job``: for an owner, the job that it was told
    to be under way, and of which it has not heard that it is over. Answered by ``HandOver`` where the member has
    other records than the aggregator, and by ``Chain``, which may be empty, once both have the same.
    """

    sequence: Sequence
    head: Head
    round: Annotated[int, Meta(ge=0, lt=1 << 53)]
    holds: bool
    job: Digest | None = None


class SignedAnswer(Message, frozen=True):
    """An owner's answer to a round (``cloister.ledger.answers.Answer``), encoded, and its signature of that."""

    answer: Annotated[bytes, Meta(max_length=ANSWER_BYTES)]
    signature: MemberSignature


class Standing(Message, frozen=True):
    """What binds an owner when it answers a round.

    ``elsewhere``: the members of each cohort that it has agreed to under other charters on this model; it agrees to no
    other that is too near to one of them. ``open``: whether it has agreed to cohorts that are neither released nor
    void, so that it wants to see the others' answers. ``left``: the rounds that its data set has left, before this one,
    where its owner publishes that.
    """

    answer: SignedAnswer
    elsewhere: Annotated[tuple[Members, ...], Meta(max_length=ELSEWHERE)] = ()
    open: bool = False
    left: Sequence | None = None


class Ready(Message, tag="ready", frozen=True):
    """An owner has trained for this round. Answered by ``Draft``, or by ``Refused``.

    ``examples``: the rows behind it, rounded down to a bucket of the charter's. ``norm``, ``buffers``: the L2 norms of
    the contribution's parameters and buffers, which it may not exceed. ``commitment``: SHA-256 of a salt of 32 bytes,
    which the owner keeps, and the contribution's bytes. With that it has answered the round.
    """

    round: RoundNumber
    examples: Annotated[int, Meta(ge=1, lt=1 << 53)]
    norm: float
    buffers: float
    metrics: Metrics
    commitment: Digest
    standing: Standing


class Contribution(Message, tag="contribution", frozen=True):
    """The update itself, in the frame's body; the salt of its commitment."""

    round: RoundNumber
    salt: Digest


class Declined(Message, tag="declined", frozen=True):
    """The owner does not take part in this round, or does not agree to its cohort; why.

    ``standing`` comes where this is its answer to the round; it has none for a round that it answered before.
    """

    round: RoundNumber
    text: Text
    standing: Standing | None = None


class Consent(Message, tag="consent", frozen=True):
    """The member agrees to the cohort with this digest, of which it is part."""

    round: RoundNumber
    cohort: Digest
    signature: MemberSignature


class Commit(Message, tag="commit", frozen=True):
    """The owner commits the cohort and the outcome that it was asked to."""

    round: RoundNumber
    signature: MemberSignature


class Submit(Message, tag="submit", frozen=True):
    """A researcher's job, the first ``job`` bytes of the body; the rest of it is the model that the job starts from.

    Answered by ``Accepted`` or ``Refused``.
    """

    job: JobSize


class Resubmitted(Message, tag="resubmitted", frozen=True):
    """The job that the owner was asked for, in the frame's body."""


class Stop(Message, tag="stop", frozen=True):
    """The researcher ends its job, and the round that is under way, unless owners were asked to commit it already.

    Answered by ``Finished``.
    """


# What the aggregator says.


class HandOver(Message, tag="hand-over", frozen=True):
    """Give me the records after the first ``after``, and the model if you have it. Answered by ``Chain``."""

    after: Sequence


class Resubmit(Message, tag="resubmit", frozen=True):
    """Give me this job, which you called under way: rounds go on with it. Answered by ``Resubmitted``."""

    job: Digest


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
    """Send the contribution to this round now: all members have agreed to its cohort. Answered by ``Contribution``.

    May come again for the same round.
    """

    round: RoundNumber


class Answers(Message, tag="answers", frozen=True):
    """The answers of owners to this round, to each owner that wants to see them."""

    round: RoundNumber
    answers: Annotated[tuple[SignedAnswer, ...], Meta(max_length=MEMBERS)]


class Draft(Message, tag="draft", frozen=True):
    """Agree to this cohort (``cloister.ledger.records.Cohort``). Answered by ``Consent`` or ``Declined``.

    It goes to the cohort's members. Another one may come in the same round, where one of them was lost.
    """

    round: RoundNumber
    cohort: Annotated[bytes, Meta(max_length=ROUND_BODY_BYTES)]


class Settle(Message, tag="settle", frozen=True):
    """Commit this cohort, to which all members have agreed, and this outcome. Answered by ``Commit`` or ``Declined``.

    It goes to every owner that is there, also to those who are not in the cohort: they bear witness.
    """

    round: RoundNumber
    cohort: Annotated[bytes, Meta(max_length=ROUND_BODY_BYTES)]
    outcome: Digest
    consents: Annotated[tuple[MemberSignature, ...], Meta(max_length=MEMBERS)]


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


class Out(Message, tag="out", frozen=True):
    """Owners that are not in this round, and why. It goes to the researchers whose job the round is of."""

    round: RoundNumber
    why: Reasons


class Accepted(Message, tag="accepted", frozen=True):
    """The job is taken; ``done`` of its rounds are in the ledger already."""

    job: Digest
    done: Sequence


class Waiting(Message, tag="waiting", frozen=True):
    """The job goes on once something has changed: what it waits for."""

    text: Text


class Finished(Message, tag="finished", frozen=True):
    """The job is over; ``text`` says why, and is empty where all its rounds are done.

    It goes to its researchers, and to the owners that hold it to be under way: they do not name it again.
    """

    job: Digest
    done: Sequence
    text: Text


# How a study stands: what any member may ask on a connection whose hello has the purpose ``status``.


class Ask(Message, tag="ask", frozen=True):
    """How does the study stand? Answered by ``Status``. ``Stop`` may be said here too, and is answered likewise."""


Doing = Literal["away", "there", "out", "awaited", "done"]
"""What an owner is at: not connected; there, and no round concerns it; out of the round; the round waits for it; it has
done all that it was asked for in this phase so far."""


class OwnerStatus(Message, frozen=True):
    """One owner, and why it is out of the round, or was of the last one. ``left``: the rounds that its data set had
    left when it last answered, where its owner publishes that."""

    owner: Fingerprint
    doing: Doing
    text: Reason
    left: Sequence | None = None


class Status(Message, tag="status", frozen=True):
    """How a study stands. ``job``: its name in the charter; empty where none runs; ``done`` and ``rounds`` are its
    released rounds and all that it has. ``round``: 0 between rounds. ``text``: what it waits for, or why the last round
    was void; it may be empty.
    ``left``: the charter's rounds that are left."""

    job: Name
    done: Sequence
    rounds: Sequence
    round: Annotated[int, Meta(ge=0, lt=1 << 53)]
    phase: Name
    text: Text
    left: Sequence
    owners: Annotated[tuple[OwnerStatus, ...], Meta(max_length=MEMBERS)]


RoundMessage = (
    Chain
    | Join
    | Ready
    | Contribution
    | Declined
    | Consent
    | Commit
    | Submit
    | Resubmitted
    | Stop
    | HandOver
    | Resubmit
    | Work
    | Propose
    | Send
    | Answers
    | Draft
    | Settle
    | Over
    | Refused
    | Accepted
    | Waiting
    | Finished
    | Out
    | Ask
    | Status
)
