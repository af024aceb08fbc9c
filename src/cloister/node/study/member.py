"""An owner in a study: its answer to each message of a round, and the acts that it refuses.

It only decides: messages and events come in, effects go out; sockets, training and the clock are the caller's. What
must survive a crash is in ``Records`` before the effect that depends on it is returned. docs/operations.md, "A node in
studies", has the rules.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
import numpy as np

from cloister.attest.transcript import Transcript
from cloister.charter import Charter
from cloister.charter.jobs import AgreedJob
from cloister.charter.keys import PrivateKey
from cloister.charter.owner_limits import Floors, PrivacyBudget
from cloister.errors import (
    AttestationError,
    CloisterError,
    JobError,
    LedgerError,
    RecordsError,
    RoundError,
)
from cloister.ledger import job as jobs
from cloister.ledger.chain import Instance, Ledger
from cloister.ledger.first_model import check_drawn
from cloister.ledger.job import Job, round_digest
from cloister.ledger.noise import noise_of
from cloister.ledger.records import cohort_digest, commitment
from cloister.ledger.sync import ModelState, Values
from cloister.node.study.answering import Answering
from cloister.node.study.countersigner import Asked, Countersigner
from cloister.node.study.current_job import CurrentJob
from cloister.node.study.effects import Abandon, Draw, Effect, Leave, Note, Prove, Say, Train
from cloister.node.study.entries import Sketched, TookPart
from cloister.node.study.home import HomeBuffers
from cloister.node.study.identities import meet
from cloister.node.study.journal import Records
from cloister.node.study.own_limits import OwnLimits
from cloister.node.study.plan_check import check_proven
from cloister.node.study.replica import Replica
from cloister.node.study.sketches import sketch
from cloister.node.study.studied_data import StudiedData
from cloister.wire import rounds as w
from cloister.wire.limits import MEMBERS, TEXT_CHARS
from cloister.worker.data.salts import draw_key, seeds_of

_SHOWN: Final = 4 * MEMBERS
"""The most answers to one round that an owner keeps to look at them together."""


class _Work(NamedTuple):
    digest: bytes
    data: bytes
    job: Job | None
    agreed: AgreedJob | None
    """The charter's; None where the job is refused."""
    fault: str


@dataclass
class _Round:
    asked: w.Propose
    agreed: AgreedJob
    data: str
    seen: Sketched | None = None
    content: bytes = b""
    training: bool = False


class _Held(NamedTuple):
    round: int
    vector: Values
    salt: bytes


class Member:
    """One owner under one charter.

    Args:
        own: its name in the charter. key: its signing key.
        floors: its own limits, which fit the charter.
        data: the tags of each data set that it trains on, by the data set's name (its tags, sorted, spaces between).
        records: its memory, which survives crashes.
        verify_instance: verifies the evidence in the record of an earlier instance; raises ``AttestationError``.
        new_salt: gives 32 random bytes.
        content: the digest of a data set's file as it is now, by its name; raises ``RecordsError``.
        budgets: what the rounds with a data set may cost its records, by the data set's name.
        publish_budget: whether the aggregator's members are told how many rounds a data set has left.
        unsafe_counted_otherwise: the data sets of which jobs may add up otherwise than those before.
        unsafe_salt: the salt of all its data sets, in a rehearsal that is to be the same each time; None: each has a
            secret one of its own.

    Raises:
        LedgerError: its records hold no chain of this charter.
        CharterError: the charter lists an owner under another id than one before it.
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
        verify_instance: Callable[[Instance], object],
        new_salt: Callable[[], bytes],
        content: Callable[[str], bytes],
        budgets: Mapping[str, PrivacyBudget] | None = None,
        publish_budget: bool = False,
        unsafe_counted_otherwise: frozenset[str] = frozenset(),
        unsafe_salt: bytes | None = None,
    ) -> None:
        self.charter: Final = charter
        self.own: Final = own
        self._digest = charter.digest
        self._limits = OwnLimits(charter, floors=floors)
        self._data = StudiedData(
            charter.digest,
            data,
            records=records,
            content=content,
            new_salt=new_salt,
            unsafe_counted_otherwise=unsafe_counted_otherwise,
            unsafe_salt=unsafe_salt,
        )
        self._records = records
        self._replica = Replica(charter, records=records, verify_instance=verify_instance)
        self._countersigner = Countersigner(charter, key=key, limits=self._limits, records=records, budgets=budgets)
        self._answering = Answering(charter, key=key, records=records)
        self._current = CurrentJob(charter, records=records)
        self._home = HomeBuffers(charter, records=records)
        self._new_salt = new_salt
        self._publishes_budget = publish_budget
        meet(charter, own=own, records=records)
        self._work: _Work | None = None
        self._round: _Round | None = None
        self._held: _Held | None = None
        self._drawn = b""  # what is known of the tensors of the job whose first model was found to be as drawn
        self._begin()

    def _begin(self) -> None:
        self._proving: deque[int] = deque()
        self._proved: tuple[int, bytes] | None = None
        self._to_sign: w.Draft | w.Settle | None = None
        self._shown: tuple[int, tuple[w.SignedAnswer, ...]] = (0, ())

    @property
    def newest(self) -> tuple[int, bytes]:
        """The number and hash of the newest record that it knows."""
        return self._replica.newest

    @property
    def _ledger(self) -> Ledger:
        return self._replica.ledger

    @property
    def training(self) -> int | None:
        """The round that it trains for now."""
        return self._round.asked.round if self._round is not None and self._round.training else None

    # Events

    def connected(self, transcript: Transcript) -> list[Effect]:
        """Handles a new connection, on which an instance has proved this and has welcomed us."""
        self._begin()
        self._replica.begin(transcript.signing_key)
        holds, named = self._replica.whole is not None, self._current.named(self._ledger)
        return [Say(w.Join(*self.newest, self._records.highest(self._digest), holds, named))]

    def disconnected(self) -> list[Effect]:
        """Handles the loss of the connection: the round goes on without us."""
        self._begin()
        return self._drop()

    def proved(self, transcript: Transcript) -> list[Effect]:
        """Handles the answer to the oldest open ``Prove``: the present state of the same instance."""
        number = self._proving.popleft()
        found = (transcript.ledger_sequence, transcript.ledger_head)
        self._proved = (number, transcript.signing_key) if found == self.newest else None
        effects: list[Effect] = []
        if self._round is not None and self._round.asked.round == number and not self._round.training:
            effects += self._start(self._round)
        if self._to_sign is not None and self._to_sign.round == number:
            asked, self._to_sign = self._to_sign, None
            effects += self._countersign(asked)
        return effects

    def trained(
        self,
        number: int,
        vector: Values,
        *,
        examples: int,
        norms: tuple[float, float],
        metrics: Mapping[str, float],
        home: Values = b"",
    ) -> list[Effect]:
        """Handles the result of a round's training: a clipped update, as its vector's bytes, and the norms of its
        parameters and of its buffers. ``home``: the vector of the buffers that stay here."""
        if self.training != number or self._round is None or self._work is None or self._work.job is None:
            return []
        try:
            self._home.made(number, home, job=self._work.job, data=self._round.data)
            return self._offer(self._round, vector, examples, norms, self._limits.released(metrics))
        except (RoundError, RecordsError) as fault:
            return self._decline(number, str(fault))

    def failed(self, number: int, text: str) -> list[Effect]:
        """Handles a training that failed."""
        return self._decline(number, text) if self.training == number else []

    # Messages

    def handle(self, message: w.RoundMessage, body: bytes | bytearray | memoryview = b"") -> list[Effect]:
        """Handles a message of the aggregator's, and the body that came with it."""
        match message:
            case w.Chain():
                return self._take(message, memoryview(body))
            case w.Work(job=digest):
                return self._study(digest, bytes(body))
            case _ if len(body):
                return [Leave(f"the aggregator sent {type(message).__name__} with a body")]
            case w.HandOver(after=after):
                return self._hand_over(after)
            case w.Resubmit(job=digest):
                return self._resubmit(digest)
            case w.Finished(job=digest, text=text):
                return self._finish(digest, text)
            case w.Refused(round=0, text=text):
                return [Leave(f"the aggregator refuses: {text}")]
        return self._handle_of_round(message)

    def _handle_of_round(self, message: w.RoundMessage) -> list[Effect]:
        match message:
            case w.Propose():
                return self._consider(message)
            case w.Send(round=number):
                return self._send(number)
            case w.Answers(round=number, answers=answers):
                return self._learn(number, answers)
            case w.Draft() | w.Settle():
                return self._asked_to_sign(message)
            case w.Over(round=number, text=text):
                return self._end(number, f"round {number} is void: {text}")
            case w.Refused(round=number, text=text):
                return self._end(number, f"round {number}: the aggregator refuses our contribution: {text}")
        return [Leave(f"the aggregator sent {type(message).__name__}, which is not for an owner")]

    # The ledger

    def _take(self, message: w.Chain, body: memoryview) -> list[Effect]:
        released = self._ledger.released
        try:
            self._replica.take(message, body, job=None if self._work is None else self._work.job)
        except (LedgerError, RoundError, AttestationError, RecordsError) as fault:
            return [Leave(f"what the aggregator hands over is not taken: {fault}")]
        if self._ledger.released == released:
            return []
        newest = self._ledger.receipts[-1]
        number, self._held = newest.cohort.round, None
        effects: list[Effect] = []
        try:
            self._home.released(number)
        except RecordsError as fault:
            effects.append(Note(f"the buffers that stay here are as before: {fault}", warns=True))
        if self._to_sign is not None and self._to_sign.round <= number:
            self._to_sign = None  # a quorum committed it while the instance proved itself
        effects += self._drop() if self._round is not None and self._round.asked.round <= number else []
        return [*effects, Note(f"round {number} is released: the mean of {len(newest.members)} owners")]

    def _hand_over(self, after: int) -> list[Effect]:
        try:
            return [*self._replica.hand_over(after)]
        except LedgerError as fault:
            return [Leave(str(fault))]

    # The job

    def _resubmit(self, job: bytes) -> list[Effect]:
        try:
            return [self._current.hand_over(job), Note(f"job {job.hex()[:12]} is handed over: it goes on")]
        except RoundError as fault:
            return [Leave(str(fault))]

    def _finish(self, job: bytes, text: str) -> list[Effect]:
        try:
            self._current.forget(job)
        except RecordsError as fault:
            return [Note(str(fault), warns=True)]
        return [Note(f"job {job.hex()[:12]} is over: {text or 'all its rounds are released'}")]

    # A round

    def _study(self, digest: bytes, data: bytes) -> list[Effect]:
        effects = self._drop()
        job, agreed, fault = None, None, ""
        try:
            if jobs.job_digest(data) != digest:
                raise JobError("it is not the job that it is called")
            job = jobs.decode(data)
            agreed = jobs.agreed(job, charter=self.charter)
            self._limits.check_job(agreed)
            check_proven(self.charter, job.plan)
            self._check_drawn(job)
            self._current.keep(data)
        except (JobError, RecordsError) as refused:
            job, agreed, fault = None, None, str(refused)
            effects.append(Note(f"job {digest.hex()[:12]} is refused: {fault}", warns=True))
        self._work = _Work(digest, data, job, agreed, fault)
        try:
            self._replica.prove(job)
        except (RoundError, RecordsError) as wrong:
            effects.append(Leave(str(wrong)))
        return effects

    def _check_drawn(self, job: Job) -> None:
        """Draws the first model that the charter's recipe describes, once, and compares. Raises ``JobError``."""
        tensors = job.tensors.digest
        if job.start == self.charter.limits.first_model and tensors != self._drawn:
            check_drawn(self.charter, job)
            self._drawn = tensors

    def _consider(self, asked: w.Propose) -> list[Effect]:
        effects = self._drop()
        try:
            self._round = self._accept(asked)
        except RoundError as fault:
            return effects + self._decline(asked.round, str(fault))
        return [*effects, *self._challenge(asked.round)]

    def _accept(self, asked: w.Propose) -> _Round:
        """Checks everything about a proposed round.

        Raises:
            RoundError: a check fails.
        """
        ledger, work = self._ledger, self._work
        highest = max(self._records.highest(self._digest), ledger.last_round)
        if asked.round <= highest:
            raise RoundError(f"round {asked.round} comes after round {highest}: a number is used once")
        if work is None or work.digest != asked.job:
            raise RoundError("the job of this round was not shown")
        if work.job is None or work.agreed is None:
            raise RoundError(work.fault)
        if (asked.sequence, asked.head) != self.newest:
            raise RoundError("the round follows another record than the newest that is known here")
        if asked.model != ledger.model:
            raise RoundError("the model is neither the charter's first nor what the newest record released")
        if not ledger.done(asked.job) and work.job.start != ledger.model:
            raise RoundError("the job starts from another model than the newest")
        if ledger.rounds_of(work.agreed.name) >= work.agreed.rounds or ledger.released >= self.charter.limits.rounds:
            raise RoundError("the rounds of this job, or of the charter, are used up")
        digest = round_digest(asked.job, charter=self._digest, number=asked.round, model=asked.model, head=asked.head)
        if asked.digest != digest:
            raise RoundError("the round's digest is not that of its job, model and place")
        if self._replica.model is None:
            raise RoundError("the model was not handed over")
        if not self._replica.is_of(work.job):
            raise RoundError("the job has other frozen tensors than the model that it says it goes on from")
        data = self._data.find(work.agreed)
        noise = noise_of(self.charter.limits, work.agreed)
        self._countersigner.check_budget(data, number=asked.round, noise=noise)
        self._answering.check_can(ledger)
        return _Round(asked, work.agreed, data)

    def _challenge(self, number: int) -> list[Effect]:
        if number in self._proving:
            return []
        self._proving.append(number)
        return [Prove(self.newest)]

    def _start(self, begun: _Round) -> list[Effect]:
        number, model, work = begun.asked.round, self._replica.model, self._work
        if not self._is_proved(number) or work is None or work.job is None or work.agreed is None or model is None:
            return self._decline(number, "the aggregator proved another ledger than it proposes the round on")
        try:
            begun.seen = self._seen(model, work.job)
            begun.content = self._data.unchanged(begun.data, seen=begun.seen)
            salt = self._data.salt(begun.data)
        except (RecordsError, RoundError) as fault:
            return self._decline(number, str(fault))
        begun.training = True
        order = Train(
            round=number,
            job=work.data,
            agreed=work.agreed,
            nbytes=work.agreed.contribution_bytes(work.job.layout),
            model=model.vector,
            data=begun.data,
            # The seeds depend on the number of releases, not on this round's number. So after a void round everybody
            # contributes exactly the same again, and reveals nothing new.
            seeds=seeds_of(salt, job=work.digest, number=self._ledger.done(work.digest) + 1),
            clip=self._limits.clip,
            clip_buffers=self._limits.clip_buffers,
            least=self._limits.min_examples,
            files=tuple(sorted({each.file for each in work.job.tensors.base})),
            home=self._home.before(work.job, data=begun.data),
            home_bytes=self._home.nbytes(work.job),
            hidden=self.charter.limits.hides == "owner",
            draw=self._draw(begun, salt=salt),
        )
        return [Note(f"round {number}: training on {begun.data}"), order]

    def _draw(self, begun: _Round, *, salt: bytes) -> Draw | None:
        """How the rows of a round are drawn where noise hides them: by its own number, so that no two draws are one."""
        sampling = begun.agreed.sampling
        if sampling is None:
            return None
        key = draw_key(salt, job=begun.asked.job, number=begun.asked.round)
        return Draw(key, sampling.rate, sampling.rows)

    def _seen(self, model: ModelState, job: Job) -> Sketched:
        """What the newest model looks like, which is written down with what is contributed to a round on it."""
        vector = np.frombuffer(model.vector, job.layout.dtype)
        return Sketched(self._digest, model.digest, len(vector), sketch(vector, key=self._records.identity))

    def _is_proved(self, number: int) -> bool:
        return self._proved is not None and self._proved == (number, self._ledger.signer)

    def _offer(
        self,
        begun: _Round,
        vector: Values,
        examples: int,
        norms: tuple[float, float],
        metrics: dict[str, float],
    ) -> list[Effect]:
        number = begun.asked.round
        if examples < self._limits.min_examples:
            raise RoundError(f"a contribution here is of at least {self._limits.min_examples} examples")
        salt = self._new_salt()
        entry = self._entry(begun, salt, vector)
        with self._records.together:  # of two charters under which it trains at once, the second sees the first
            if number <= self._records.highest(self._digest):
                raise RoundError(f"round {number} was contributed to already")
            self._answering.check_can(self._ledger)  # it may have committed more since it began
            if begun.seen is None or self._data.unchanged(begun.data, seen=begun.seen) != begun.content:
                raise RoundError(f"the data set {begun.data!r} has changed while it was trained on")
            self._records.take_part(entry, begun.seen)
        self._round = None  # no later proof starts it a second time
        self._held = _Held(number, vector, salt)
        standing = self._answering.standing(number, model=entry.model, ledger=self._ledger)
        standing = self._with_budget(standing, number)
        return [Say(w.Ready(number, self._limits.told(examples), *norms, metrics, entry.commitment, standing))]

    def _entry(self, begun: _Round, salt: bytes, vector: Values) -> TookPart:
        """What is written down of a contribution."""
        asked = begun.asked
        return TookPart(
            charter=self._digest,
            round=asked.round,
            job=asked.job,
            data=begun.data,
            digest=asked.digest,
            model=asked.model,
            content=begun.content,
            batch_size=begun.agreed.batch_size,
            weights=begun.agreed.weights,
            clip_norm=begun.agreed.optimizer.clip_norm,
            commitment=commitment(salt, memoryview(vector)),
            salt=salt,
            noise=noise_of(self.charter.limits, begun.agreed),
        )

    def _send(self, number: int) -> list[Effect]:
        if self._held is None or self._held.round != number:
            return [Say(w.Declined(number, "there is no contribution to this round any more"))]
        if all(each.round != number for each in self._records.consents(self._digest)):
            return [Say(w.Declined(number, "a contribution leaves this node once a cohort with it was agreed to"))]
        return [Say(w.Contribution(number, self._held.salt), (self._held.vector,))]

    def _end(self, number: int, text: str) -> list[Effect]:
        effects: list[Effect] = []
        if self._round is not None and self._round.asked.round == number:
            effects = self._drop()
        if self._held is not None and self._held.round == number:
            self._held = None
        if self._to_sign is not None and self._to_sign.round == number:
            self._to_sign = None
        return [*effects, Note(text)]

    def _drop(self) -> list[Effect]:
        """Gives up the round that is under way. A contribution that was offered is kept until the round is over."""
        begun, self._round = self._round, None
        return [Abandon(begun.asked.round)] if begun is not None and begun.training else []

    def _decline(self, number: int, text: str) -> list[Effect]:
        """Takes no part in a round, which answers it."""
        self._drop()
        note = Note(f"round {number} is declined: {text}", warns=True)
        try:
            standing = self._answering.decline(number, ledger=self._ledger)
        except RecordsError as fault:
            return [note, Note(str(fault), warns=True), Say(w.Declined(number, text[:TEXT_CHARS]))]
        if standing is not None:
            standing = self._with_budget(standing, number)
        return [note, Say(w.Declined(number, text[:TEXT_CHARS], standing))]

    def _with_budget(self, standing: w.Standing, number: int) -> w.Standing:
        """With the rounds that the job's data set has left before this one, if its owner publishes that."""
        if not self._publishes_budget or self._work is None or self._work.agreed is None:
            return standing
        try:
            data = self._data.find(self._work.agreed)
        except RoundError:
            return standing
        noise = noise_of(self.charter.limits, self._work.agreed)
        left = self._countersigner.left(data, number=number, noise=noise)
        return msgspec.structs.replace(standing, left=left)

    # Signing

    def _learn(self, number: int, answers: Sequence[w.SignedAnswer]) -> list[Effect]:
        """Looks at all answers to a round that were shown so far: they may come in several messages."""
        before = self._shown[1] if self._shown[0] == number else ()
        self._shown = number, (*before, *answers)
        if len(self._shown[1]) > _SHOWN:
            return [Leave("the aggregator shows more answers than owners can have given")]
        try:
            found = self._answering.learn(self._shown[1], ledger=self._ledger)
        except RecordsError as fault:
            return [Leave(str(fault))]
        return [Note(f"the answers to round {number} show that {found} cohorts are void")] if found else []

    def _asked_to_sign(self, asked: w.Draft | w.Settle) -> list[Effect]:
        if self._is_proved(asked.round):
            return self._countersign(asked)
        self._to_sign = asked
        return self._challenge(asked.round)

    def _countersign(self, asked: w.Draft | w.Settle) -> list[Effect]:
        """Consents to a cohort, or commits it, or says why not."""
        number, work, sign = asked.round, self._work, self._countersigner
        shown = {} if work is None else {work.digest: "" if work.agreed is None else work.agreed.name}
        cohort = Asked(asked.cohort, number, self._ledger, self._is_proved(number), shown)
        message: w.Consent | w.Commit
        try:
            if isinstance(asked, w.Draft):
                what, message = "consented to", w.Consent(number, cohort_digest(asked.cohort), sign.consent(cohort))
            else:
                signature = sign.commit(cohort, outcome=asked.outcome, consents=asked.consents)
                what, message = "committed", w.Commit(number, signature)
        except CloisterError as fault:
            text = f"the cohort is not {'consented to' if isinstance(asked, w.Draft) else 'committed'}: {fault}"
            return [Note(f"round {number}: {text}", warns=True), Say(w.Declined(number, text[:TEXT_CHARS]))]
        return [Note(f"round {number}: {what} the cohort"), Say(message)]
