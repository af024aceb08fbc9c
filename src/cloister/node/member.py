"""An owner in a study: what it answers to each message of a round, and what it never does.

Decisions only: messages and events come in, effects go out; sockets, training and the clock are the caller's. What
must outlast a crash is in ``Records`` before the effect that depends on it is returned. docs/study.md tells the rules.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from cloister.aggregator import job as jobs
from cloister.aggregator.chains import in_parts
from cloister.aggregator.job import Job, model_digest, owner_seed, round_digest
from cloister.aggregator.ledger import Instance, Ledger
from cloister.aggregator.records import (
    Cohort,
    cohort_to_be_signed,
    commitment,
    decode_cohort,
    state_digest,
)
from cloister.aggregator.updates import State
from cloister.attest.transcript import Transcript
from cloister.charter import Charter, signing
from cloister.charter.floors import Floors
from cloister.charter.signing import PrivateKey
from cloister.errors import AttestationError, CloisterError, JobError, LedgerError, RecordsError, RoundError
from cloister.node.records import Model, Records, Signed, TookPart, Values
from cloister.wire import rounds as w
from cloister.wire.limits import TEXT_CHARS
from cloister.wire.peers import fingerprint

NO_FLOORS: Final = Floors()


class Say(NamedTuple):
    """Send this message to the aggregator, with these bodies one after the other."""

    message: w.RoundMessage
    bodies: tuple[Values, ...] = ()


class Prove(NamedTuple):
    """Challenge the instance on this connection, whose ledger goes at least this far; tell ``proved`` what came."""

    newest: tuple[int, bytes]


class Train(NamedTuple):
    """Train, and tell ``trained`` or ``failed``."""

    round: int
    job: bytes
    """Encoded; checked against the charter."""
    model: Values
    """The vector that the round starts from."""
    data: str
    seed: int
    clip: float
    least: int
    """The least rows that the data set may have."""


class Abandon(NamedTuple):
    """What trains for this round trains for nothing."""

    round: int


class Leave(NamedTuple):
    """End the connection: with this aggregator nothing can be done; why."""

    text: str


class Note(NamedTuple):
    """A line for the owner's log."""

    text: str


Effect: TypeAlias = Say | Prove | Train | Abandon | Leave | Note


class _Work(NamedTuple):
    digest: bytes
    data: bytes
    job: Job | None
    fault: str


@dataclass
class _Round:
    asked: w.Propose
    data: str
    training: bool = False


class _Held(NamedTuple):
    round: int
    vector: Values
    salt: bytes


class Member:
    """One owner under one charter.

    Args:
        own: its name in the charter. key: what it signs with.
        floors: its own, which fit the charter.
        data: the tags of each data set that it trains on, by the data set's name (its tags, sorted, spaces between).
        records: what it never forgets.
        vouch: verifies the evidence in the record of an earlier instance; raises ``AttestationError``.
        new_salt: 32 random bytes.

    Raises:
        LedgerError: what its records hold is no chain of this charter.
    """

    def __init__(
        self,
        *,
        charter: Charter,
        own: str,
        key: PrivateKey,
        floors: Floors | None,
        data: Mapping[str, frozenset[str]],
        records: Records,
        vouch: Callable[[Instance], object],
        new_salt: Callable[[], bytes],
    ) -> None:
        self.charter: Final = charter
        self.own: Final = own
        self._digest = charter.digest
        self._key = key
        self._public_key = signing.public_bytes(key)
        self._fingerprint = fingerprint(self._public_key)
        self._owners = {owner.key: owner.name for owner in charter.owners}
        self._limits = _Limits(charter, floors or NO_FLOORS)
        self._data = dict(data)
        self._records = records
        self._vouch = vouch
        self._new_salt = new_salt
        self._ledger = Ledger.from_records(charter, records.chain(self._digest))
        self._model = records.model(self._digest)
        self._work: _Work | None = None
        self._unproven: Model | None = None
        self._round: _Round | None = None
        self._held: _Held | None = None
        self._signer: bytes | None = None
        self._begin()

    def _begin(self) -> None:
        self._proving: deque[int] = deque()
        self._proved: tuple[int, bytes] | None = None
        self._to_sign: w.Sign | None = None
        self._unproven = None

    @property
    def newest(self) -> tuple[int, bytes]:
        """The newest record that it knows: number and hash."""
        return self._ledger.sequence, self._ledger.head

    @property
    def training(self) -> int | None:
        """The round that it trains for now."""
        return self._round.asked.round if self._round is not None and self._round.training else None

    # Events

    def connected(self, transcript: Transcript) -> list[Effect]:
        """An instance has proved this on a new connection, and has welcomed us."""
        self._begin()
        self._signer = transcript.signing_key
        # What an instance began and released nothing on may be missing from the chain that the others go on with.
        self._ledger = self._ledger.settled()
        holds = self._model is not None and self._model.digest == self._ledger.model
        return [Say(w.Join(*self.newest, self._records.highest(self._digest), holds))]

    def disconnected(self) -> list[Effect]:
        """The connection is lost: the round goes on without us."""
        self._begin()
        return self._drop()

    def proved(self, transcript: Transcript) -> list[Effect]:
        """The answer to the oldest ``Prove`` that is open: the same instance, as it is now."""
        number = self._proving.popleft()
        found = (transcript.ledger_sequence, transcript.ledger_head)
        self._proved = (number, transcript.signing_key) if found == self.newest else None
        effects: list[Effect] = []
        if self._round is not None and self._round.asked.round == number and not self._round.training:
            effects += self._start(self._round)
        if self._to_sign is not None and self._to_sign.round == number:
            asked, self._to_sign = self._to_sign, None
            effects += self._sign(asked)
        return effects

    def trained(self, number: int, vector: Values, *, examples: int, metrics: Mapping[str, float]) -> list[Effect]:
        """The training for a round has come to this: a clipped update, as its vector's bytes."""
        if self.training != number or self._round is None or self._work is None:
            return []
        try:
            return self._offer(self._round, vector, examples, self._limits.released(metrics))
        except (RoundError, RecordsError) as fault:
            return self._decline(number, str(fault))

    def failed(self, number: int, text: str) -> list[Effect]:
        """The training for a round came to nothing."""
        return self._decline(number, text) if self.training == number else []

    # Messages

    def handle(self, message: w.RoundMessage, body: bytes | bytearray | memoryview = b"") -> list[Effect]:
        """What to do about a message of the aggregator's, and the body that came with it."""
        match message:
            case w.Chain():
                return self._take(message, memoryview(body))
            case w.Work(job=digest):
                return self._study(digest, bytes(body))
            case _ if len(body):
                return [Leave(f"the aggregator sent {type(message).__name__} with a body")]
            case w.HandOver(after=after):
                return self._hand_over(after)
            case w.Propose():
                return self._consider(message)
            case w.Send(round=number):
                return self._send(number)
            case w.Sign():
                return self._witness(message)
            case w.Over(round=number, text=text):
                return self._end(number, f"round {number} is void: {text}")
            case w.Refused(round=0, text=text):
                return [Leave(f"the aggregator refuses: {text}")]
            case w.Refused(round=number, text=text):
                return self._end(number, f"round {number}: the aggregator refuses our contribution: {text}")
        return [Leave(f"the aggregator sent {type(message).__name__}, which is not for an owner")]

    # The ledger

    def _take(self, message: w.Chain, body: memoryview) -> list[Effect]:
        try:
            parts = _parts(message, body)
            before, released = self._ledger, self._ledger.released
            self._ledger = self._extended(message.first, [bytes(part) for part in parts[: len(message.records)]])
            try:
                self._adopt(parts[len(message.records) :], message)
                self._keep()
            except BaseException:
                self._ledger = before
                raise
        except (LedgerError, RoundError, AttestationError, RecordsError) as fault:
            return [Leave(f"what the aggregator hands over is not taken: {fault}")]
        effects: list[Effect] = []
        if self._ledger.released > released:
            number = self._ledger.last_round
            effects = [Note(f"round {number} is released: the mean of {len(self._ledger.receipts[-1].members)} owners")]
            if self._round is not None and self._round.asked.round <= number:
                effects = self._drop() + effects
            self._held = None
        return effects

    def _extended(self, first: int, records: Sequence[bytes]) -> Ledger:
        kept = self._ledger
        at = first - 1
        if not 0 <= at <= kept.sequence:
            raise LedgerError(f"it begins with record {first}, and {kept.sequence} are known")
        known = 0
        while known < len(records) and at + known < kept.sequence and kept.records[at + known] == records[known]:
            known += 1
        new = records[known:]
        if not new:
            return kept
        if at + known < kept.sequence:  # all that may be left behind is instances that released nothing
            kept = kept.settled()
            if at + known < kept.sequence:
                raise LedgerError(f"it leaves the chain that is known here at record {at + known + 1}: a fork")
            new = records[kept.sequence - at :]
        grown = kept.copy()
        grown.extend(new)
        for instance in grown.instances[len(kept.instances) :]:
            if instance.transcript.signing_key != self._signer:
                self._vouch(instance)
        return grown

    def _adopt(self, parts: Sequence[memoryview], message: w.Chain) -> None:
        if not parts:
            return
        vector, *state = (part.toreadonly() for part in parts)
        digest = self._ledger.model
        receipts = self._ledger.receipts
        if digest is None:
            raise RoundError("it comes with a model, and the charter has none")
        if not receipts:
            state = []  # what a rule begins with follows from the rule
        elif _state_digest(message.rounds, state) != receipts[-1].record.state:
            raise RoundError("the state of the server's rule is not the one that its newest record names")
        self._unproven = Model(digest, vector, tuple(state), message.rounds if state else 0)
        self._prove_model()

    def _prove_model(self) -> None:
        """Which tensors a model's vector is of, only a job tells: until one has come it is believed by nobody."""
        if self._unproven is None or self._work is None or self._work.job is None:
            return
        model, self._unproven = self._unproven, None
        if model_digest(self._work.job, model.vector) != model.digest:
            raise RoundError("the model is not the one that its newest record released")
        self._model = model

    def _keep(self) -> None:
        settled = self._ledger.settled()
        stored = len(self._records.chain(self._digest))
        rounds = {receipt.cohort.sequence: receipt.cohort.round for receipt in settled.receipts}
        new = [(rounds.get(at, 0), record) for at, record in enumerate(settled.records[stored:], stored + 1)]
        kept = self._records.kept(self._digest)
        model = self._model if self._model is not None and self._model.digest == self._ledger.model != kept else None
        if new or model is not None:
            self._records.release(self._digest, new, model=model)

    def _hand_over(self, after: int) -> list[Effect]:
        if after > self._ledger.sequence:
            return [Leave(f"the aggregator asks for records after number {after}, and there are none")]
        effects: list[Effect] = []
        for part in in_parts(self._ledger.since(after)):
            effects.append(Say(w.Chain(after + 1, tuple(map(len, part))), part))
            after += len(part)
        if effects:
            return effects  # the model is asked for once it is known that these records are the newest
        model = self._model
        if model is None or model.digest != self._ledger.model:
            return [Say(w.Chain(after + 1, ()))]
        message = w.Chain(after + 1, (), len(model.vector), model.rounds, tuple(map(len, model.state)))
        return [Say(message, (model.vector, *model.state))]

    # A round

    def _study(self, digest: bytes, data: bytes) -> list[Effect]:
        effects = self._drop()
        job, fault = None, ""
        try:
            if jobs.job_digest(data) != digest:
                raise JobError("it is not the job that it is called")
            job = jobs.decode(data)
            jobs.check(job, charter=self.charter)
        except JobError as refused:
            job, fault = None, str(refused)
            effects.append(Note(f"job {digest.hex()[:12]} is refused: {fault}"))
        self._work = _Work(digest, data, job, fault)
        try:
            self._prove_model()
            self._keep()
        except (RoundError, RecordsError) as wrong:
            effects.append(Leave(str(wrong)))
        return effects

    def _consider(self, asked: w.Propose) -> list[Effect]:
        effects = self._drop()
        try:
            data = self._accept(asked)
        except RoundError as fault:
            return effects + self._decline(asked.round, str(fault))
        self._round = _Round(asked, data)
        return [*effects, *self._challenge(asked.round)]

    def _accept(self, asked: w.Propose) -> str:
        """The data set to train on, once everything is as it must be.

        Raises:
            RoundError: it is not.
        """
        ledger, work = self._ledger, self._work
        highest = max(self._records.highest(self._digest), ledger.last_round)
        if asked.round <= highest:
            raise RoundError(f"round {asked.round} comes after round {highest}: a number is used once")
        if work is None or work.digest != asked.job:
            raise RoundError("the job of this round was not shown")
        if work.job is None:
            raise RoundError(work.fault)
        if (asked.sequence, asked.head) != self.newest:
            raise RoundError("the round follows another record than the newest that is known here")
        if asked.model != ledger.model:
            raise RoundError("the model is neither the charter's first nor what the newest record released")
        done = ledger.done(asked.job)
        if not done and work.job.start != ledger.model:
            raise RoundError("the job starts from another model than the newest")
        if done >= work.job.rounds or ledger.released >= self.charter.limits.rounds:
            raise RoundError("the rounds of this job, or of the charter, are used up")
        digest = round_digest(asked.job, charter=self._digest, number=asked.round, model=asked.model, head=asked.head)
        if asked.digest != digest:
            raise RoundError("the round's digest is not that of its job, model and place")
        if self._model is None or self._model.digest != asked.model:
            raise RoundError("the model was not handed over")
        return self._data_set(work.job.data)

    def _data_set(self, tag: str) -> str:
        found = [name for name, tags in self._data.items() if tag in tags]
        if len(found) != 1:
            raise RoundError(f"{len(found)} data sets for studies carry the tag {tag!r} here, and a round takes one")
        self._check_budget(found[0])
        return found[0]

    def _check_budget(self, data: str) -> None:
        if self._records.spent(data) >= self._limits.rounds:
            raise RoundError(
                f"the data set {data!r} was in {self._records.spent(data)} releases, and its owner allows"
                f" {self._limits.rounds}"
            )

    def _challenge(self, number: int) -> list[Effect]:
        if number in self._proving:
            return []
        self._proving.append(number)
        return [Prove(self.newest)]

    def _start(self, begun: _Round) -> list[Effect]:
        number = begun.asked.round
        if not self._is_proved(number) or self._work is None or self._work.job is None or self._model is None:
            return self._decline(number, "the aggregator proved another ledger than it proposes the round on")
        begun.training = True
        job = self._work.job
        order = Train(
            round=number,
            job=self._work.data,
            model=self._model.vector,
            data=begun.data,
            seed=owner_seed(job.seed, number=number, owner=self.own),
            clip=self._limits.clip,
            least=self._limits.min_examples,
        )
        return [Note(f"round {number}: training on {begun.data}"), order]

    def _is_proved(self, number: int) -> bool:
        return self._proved is not None and self._proved == (number, self._ledger.signer)

    def _offer(self, begun: _Round, vector: Values, examples: int, metrics: dict[str, float]) -> list[Effect]:
        number = begun.asked.round
        if examples < self._limits.min_examples:
            raise RoundError(f"a contribution here is of at least {self._limits.min_examples} examples")
        salt = self._new_salt()
        committed = commitment(salt, memoryview(vector))
        asked = begun.asked
        self._records.take_part(TookPart(self._digest, number, asked.job, begun.data, asked.digest, committed, salt))
        begun.training = False
        self._held = _Held(number, vector, salt)
        return [Say(w.Ready(number, examples, metrics, committed))]

    def _send(self, number: int) -> list[Effect]:
        if self._held is None or self._held.round != number:
            return [Say(w.Declined(number, "there is no contribution to this round any more"))]
        return [Say(w.Contribution(number, self._held.salt), (self._held.vector,))]

    def _end(self, number: int, text: str) -> list[Effect]:
        effects: list[Effect] = []
        if self._round is not None and self._round.asked.round == number:
            effects = self._drop()
        if self._held is not None and self._held.round == number:
            self._held = None
        return [*effects, Note(text)]

    def _drop(self) -> list[Effect]:
        """Gives up the round that is under way; a contribution that was offered stays, until it is over."""
        begun, self._round = self._round, None
        return [Abandon(begun.asked.round)] if begun is not None and begun.training else []

    def _decline(self, number: int, text: str) -> list[Effect]:
        self._drop()
        return [Note(f"round {number} is declined: {text}"), Say(w.Declined(number, text[:TEXT_CHARS]))]

    # Signing

    def _witness(self, asked: w.Sign) -> list[Effect]:
        if self._is_proved(asked.round):
            return self._sign(asked)
        self._to_sign = asked
        return self._challenge(asked.round)

    def _sign(self, asked: w.Sign) -> list[Effect]:
        try:
            signed = self._signature(asked)
        except CloisterError as fault:
            text = f"the cohort is not signed: {fault}"
            return [Note(f"round {asked.round}: {text}"), Say(w.Declined(asked.round, text[:TEXT_CHARS]))]
        return [
            Note(f"round {asked.round}: signed a cohort of {len(signed.members)}"),
            Say(w.Signature(asked.round, self._public_key, signed.signature)),
        ]

    def _signature(self, asked: w.Sign) -> Signed:
        """The signature of this cohort: an old one for the very same, or a new one that is on the disk.

        Raises:
            RoundError, LedgerError, RecordsError: there is none.
        """
        cohort = decode_cohort(asked.cohort)
        if cohort.round != asked.round:
            raise RoundError("it is of another round")
        before = self._records.signed(self._digest)
        if (known := before.get(cohort.round)) is not None and known.cohort == asked.cohort:
            return known
        if cohort.round <= max((0, *before)):
            raise RoundError(f"a cohort of round {max(before)} was signed already: one a round, and in their order")
        if not self._is_proved(cohort.round) or cohort.signer != self._ledger.signer:
            raise RoundError("the instance has not proved, in this round, the key and the ledger that it is for")
        self._ledger.check_cohort(cohort)
        self._check_members(cohort)
        data = self._check_own(cohort)
        signature = signing.sign(cohort_to_be_signed(asked.cohort), key=self._key)
        members = tuple(share.member for share in cohort.shares)
        signed = Signed(self._digest, cohort.round, cohort.model, members, asked.cohort, signature, data)
        self._records.sign(signed)
        return signed

    def _check_members(self, cohort: Cohort) -> None:
        limits = self._limits
        members = frozenset(share.member for share in cohort.shares)
        if len(members) < limits.floor:
            raise RoundError(f"it has {len(members)} members, and at least {limits.floor} are asked for here")
        if any(share.weight > math.nextafter(limits.largest_share, math.inf) for share in cohort.shares):
            raise RoundError(f"a member counts for more than {limits.largest_share:g}")
        for other in self._records.on_model(cohort.model):
            if 0 < len(members ^ other) < limits.floor:
                raise RoundError(
                    f"a cohort that differs in {len(members ^ other)} members was signed on the same model; the"
                    f" difference of the two would be theirs alone, and at least {limits.floor} are asked for here"
                )
        work = self._work
        if work is not None and work.digest == cohort.job and (work.job is None or work.job.strategy != cohort.rule):
            raise RoundError("its rule is not the job's")

    def _check_own(self, cohort: Cohort) -> str | None:
        """The data set that our own contribution is of, if one of ours is in it."""
        own = next((share for share in cohort.shares if share.member == self._fingerprint), None)
        took_part = self._records.took_part(self._digest)
        if cohort.round < max((0, *took_part)):
            raise RoundError(f"round {max(took_part)} has begun since")
        if own is None:
            return None
        known = took_part.get(cohort.round)
        if known is None:
            raise RoundError("we contributed nothing to this round")
        if (known.job, known.digest) != (cohort.job, cohort.digest):
            raise RoundError("we trained for another job or another round")
        if known.commitment != own.commitment:
            raise RoundError("it names another contribution than ours")
        self._check_budget(known.data)
        return known.data


class _Limits:
    """The charter's limits, or the owner's where those are stricter."""

    def __init__(self, charter: Charter, floors: Floors) -> None:
        agreed = charter.limits
        self.floor = max(agreed.floor, floors.floor or 0)
        self.min_examples = max(agreed.min_examples, floors.min_examples or 0)
        self.largest_share = min(agreed.largest_share, _or_any(floors.largest_share))
        self.clip = min(agreed.clip, _or_any(floors.clip))
        self.rounds = agreed.rounds if floors.rounds is None else min(agreed.rounds, floors.rounds)
        self._ranges = {metric.name: (metric.low, metric.high) for metric in agreed.metrics}

    def released(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Of these metrics, those that the charter names, within its ranges."""
        return {
            name: min(max(value, self._ranges[name][0]), self._ranges[name][1])
            for name, value in metrics.items()
            if name in self._ranges and not math.isnan(value)
        }


def _or_any(limit: float | None) -> float:
    return math.inf if limit is None else limit


def _parts(message: w.Chain, body: memoryview) -> list[memoryview]:
    """The records, the model if there is one, and the parts of the rule's state.

    Raises:
        RoundError: the body is longer or shorter than the message says.
    """
    if message.state and not message.model:
        raise RoundError("it comes with a state and without a model")
    sizes = [*message.records, *([message.model] if message.model else []), *message.state]
    if sum(sizes) != len(body):
        raise RoundError(f"its body has {len(body)} bytes, and not {sum(sizes)}")
    parts, at = [], 0
    for size in sizes:
        parts.append(body[at : at + size])
        at += size
    return parts


def _state_digest(rounds: int, state: Sequence[Values]) -> bytes | None:
    if not state:
        return None
    if any(len(part) % 8 for part in state):
        raise RoundError("the state of the server's rule is no vector of numbers")
    averages = [np.frombuffer(part, np.float64) for part in state]
    return state_digest(State(rounds, averages[0], averages[1] if len(averages) > 1 else None))
