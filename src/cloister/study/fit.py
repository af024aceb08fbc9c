"""One run of a researcher's job: it is submitted, followed round by round, and taken up again after each lost
connection, until the aggregator says that it is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic, perf_counter
from typing import Final, Literal, TypeAlias

from torch import nn

from cloister.aggregation.vectors import Vector
from cloister.charter import Charter
from cloister.charter.difference import begins_anew
from cloister.charter.jobs import AgreedJob
from cloister.errors import (
    CloisterError,
    JobError,
    LedgerError,
    MessageError,
    NetworkError,
    RoundError,
    StudyError,
)
from cloister.ledger import job as jobs
from cloister.ledger.chain import Ledger, Receipt
from cloister.ledger.following import Handed, advance
from cloister.ledger.job import Job
from cloister.ledger.next_model import repeat
from cloister.ledger.sync import ModelState
from cloister.net.attested import AttestedConnection
from cloister.net.polling import READABLE, wait
from cloister.study.client import StudyClient, bytes_of
from cloister.study.clipping import ClippingWatch
from cloister.study.history import Round
from cloister.study.job import check_start, load
from cloister.study.progress import Interrupts, evaluated
from cloister.study.state_dir import Folder
from cloister.wire.rounds import (
    Accepted,
    Chain,
    Finished,
    HandOver,
    Join,
    Out,
    Over,
    Refused,
    RefusedCode,
    RoundMessage,
    Stop,
    Submit,
    Waiting,
)
from cloister.wire.text import visible

_FIRST_DELAY_S: Final = 0.5
_LONGEST_DELAY_S: Final = 30.0
_OPEN_ROUNDS: Final = 4
"""Rounds that are neither released nor void, of which it is kept who is out. An aggregator has one at a time."""
_LESS: Final = (
    "have owners change it less in a round, with a lower learning rate or fewer steps, or agree on a charter with a"
    " larger clip"
)
OnError: TypeAlias = Literal["leave", "stop"]
"""What becomes of a job whose researcher's callback raises: it goes on at the aggregator, or is ended there."""
_REFUSALS: Final[dict[RefusedCode, type[StudyError]]] = {"ledger": LedgerError, "job": JobError, "round": RoundError}


@dataclass(eq=False)
class JobRun:
    """A job and its progress.

    ``dial`` connects to an instance and has it prove itself; ``judge`` verifies the evidence of instances that are new
    in a chain; ``say`` shows a line to a person. Once ``evaluate`` or ``on_round`` has raised, neither is called again,
    and ``on_error`` says what becomes of the job.
    """

    charter: Charter
    folder: Folder
    ledger: Ledger
    model: nn.Module
    data: bytes
    start: Vector
    dial: Callable[[], AttestedConnection]
    judge: Callable[[Ledger, Ledger], None]
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None
    on_round: Callable[[Round], None]
    on_error: OnError
    say: Callable[[object], None]
    interrupts: Interrupts
    patience_s: float

    job: Job = field(init=False)
    agreed: AgreedJob = field(init=False)
    digest: bytes = field(init=False)
    held: ModelState | None = field(init=False)
    rounds: list[Round] = field(init=False)
    _highest: int = field(init=False, default=0)
    _absent: dict[int, dict[str, str]] = field(init=False, default_factory=dict)
    """Why owners are out of rounds that are not released yet, by round and name."""
    _said: dict[str, str] = field(init=False, default_factory=dict)
    _submitted: bool = field(init=False, default=False)
    _accepted: bool = field(init=False, default=False)
    _raised: Exception | None = field(init=False, default=None)
    _since: float = field(init=False, default_factory=perf_counter)
    _clipping: ClippingWatch = field(init=False)

    def __post_init__(self) -> None:
        self.job = jobs.decode(self.data)
        self.agreed = jobs.agreed(self.job, charter=self.charter)
        self.digest = jobs.job_digest(self.data)
        kept = self.folder.model(self.job)
        self.held = kept if kept is not None and kept.is_newest(self.ledger) else None
        self.rounds = [self._round(receipt, {}, 0.0, {}) for receipt in self.receipts]
        self._clipping = ClippingWatch(self.charter.limits.clip, remedy=_LESS)

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """The receipts of the job's rounds."""
        return tuple(receipt for receipt in self.ledger.receipts if receipt.cohort.job == self.digest)

    @property
    def finished(self) -> bool:
        """Whether all its rounds are done."""
        return self.ledger.rounds_of(self.agreed.name) >= self.agreed.rounds

    def run(self) -> None:
        """Follows the job until it is over, or until Ctrl-C was pressed and the job is stopped.

        Raises:
            JobError: the aggregator does not take it. LedgerError: its chain is not valid.
            NetworkError: it could not be reached for ``patience_s`` seconds.
            AttestationError: what answers there is not acceptable.
            Exception: what a callback raised, once the job is left or stopped; where it could not be stopped, a note of
                it says why.
        """
        try:
            self._keep_following()
        except CloisterError as fault:
            if self._raised is None:
                raise
            self._raised.add_note(f"the job goes on, since it could not be stopped: {fault}")
        if self._raised is not None:
            raise self._raised

    def _keep_following(self) -> None:
        delay, until = _FIRST_DELAY_S, 0.0
        while True:
            try:
                self._accepted = False
                with StudyClient(self.dial()) as conversation:
                    return self._follow(conversation)
            except NetworkError as fault:
                if self._accepted or not until:
                    delay, until = _FIRST_DELAY_S, monotonic() + self.patience_s
                if monotonic() + delay > until:
                    raise
                self.say(f"the aggregator is out of reach ({fault}); trying again in {delay:g} s")
                wait({self.interrupts.fileno(): READABLE}, until=monotonic() + delay)
                if self.interrupts.asked:
                    return
                delay = min(2 * delay, _LONGEST_DELAY_S)

    def _follow(self, conversation: StudyClient) -> None:
        ledger = self.ledger
        highest = max(self._highest, ledger.last_round)
        conversation.say(Join(ledger.sequence, ledger.head, highest, self.held is not None))
        self._submitted = False
        stopped = False
        while True:
            may_stop = self._accepted and not stopped and not self.finished
            heard = None
            if self._raised is None or not may_stop:
                heard = conversation.hear(unless=self.interrupts if may_stop else None)
            if heard is None:
                conversation.say(Stop())
                stopped = True
            elif self._take(conversation, *heard):
                return

    def _submit(self, conversation: StudyClient) -> None:
        """Submits the job once both ends have the same records. Before that, nobody knows which model is the newest."""
        if self._submitted:
            return
        drawn = bool(self.charter.recipe)
        check_start(self.job.start, newest=self.ledger.model, own=bool(self.receipts), drawn=drawn)
        self._submitted = True
        if self.charter.supersedes is not None and not self.ledger.receipts and (anew := begins_anew(self.agreed)):
            self.say(f"{anew} begin anew: nothing of the charter before is carried over but the model")
        conversation.say(Submit(len(self.data)), [memoryview(self.data), bytes_of(self.start)])

    def _take(self, conversation: StudyClient, message: RoundMessage, body_bytes: int) -> bool:
        """Takes one message, and returns whether there is nothing to wait for any more."""
        match message:
            case Chain():
                self._extend(conversation.read_chain(message, body_bytes, job=self.job))
                if self._raised is not None and self.on_error == "leave":
                    return True
                self._submit(conversation)
            case HandOver(after=after):
                conversation.hand_over(self.ledger, after=after, model=self.held)
            case Accepted(job=job):
                self._check_job(job)
                self._accepted, self._since = True, perf_counter()
            case Over(round=number, text=text):
                self._highest = max(self._highest, number)
                self._absent.pop(number, None)
                self.say(f"round {number}  void: {text}")
            case Out():
                self._hear_out(message)
            case Waiting(text=text):
                self.say(f"waiting: {text}")
            case Refused():
                self._refuse(message)
            case Finished(job=job, text=text):
                self._check_job(job)
                self._check_finished(text)
                return True
            case _:
                raise MessageError(f"an aggregator sent a researcher what is for owners: {type(message).__name__}")
        return False

    def _hear_out(self, out: Out) -> None:
        """Keeps why owners are out of a round, and says it unless that was said of the round before."""
        if out.round not in self._absent and len(self._absent) >= _OPEN_ROUNDS:
            return
        absent = self._absent.setdefault(out.round, {})
        for owner in self.charter.owners:
            if owner.key in out.why:
                why = absent[owner.name] = visible(out.why[owner.key])
                if self._said.get(owner.name) != why:
                    self._said[owner.name] = why
                    self.say(f"round {out.round}  without {owner.name}: {why}")

    def _extend(self, handed: Handed) -> None:
        ledger = advance(self.ledger, handed.first, handed.records)
        self.judge(self.ledger, ledger)
        held = self._model_of(handed, ledger)
        if held is None and self.held is not None and self.held.is_newest(ledger):
            held = self.held
        if held is not None and held is not self.held:
            self.folder.keep_job(self.data)
            self.folder.keep(held, dtype=self.job.layout.dtype)
        self.folder.keep_records(ledger.records, before=self.ledger.records)
        known = len(self.receipts)
        self.ledger, self.held = ledger, held
        for receipt in self.receipts[known:]:
            self._tell(receipt)

    def _model_of(self, handed: Handed, ledger: Ledger) -> ModelState | None:
        if handed.step is not None:
            before = self.held or ModelState(self.job.start, bytes_of(self.start))
            return repeat(handed.step, before=before, ledger=ledger, job=self.job)
        if handed.vector is None:
            return None
        found = ModelState(jobs.model_digest(self.job, handed.vector), handed.vector, handed.averages, handed.rounds)
        if found.is_newest(ledger):
            return found
        if ledger.done(self.digest) or found.digest != ledger.model:
            raise LedgerError("the model that came with the newest record is not the one that the record names")
        return None  # before the first round the strategy's state is in no record

    def _tell(self, receipt: Receipt) -> None:
        """Tells the researcher of a round, whose records are kept by now: whatever a callback does, they stand."""
        if self._raised is not None:
            return
        newest = self.held is not None and receipt is self.ledger.receipts[-1]
        if self.held is not None and newest:
            load(self.held.vector, tensors=self.job.tensors, into=self.model)
        absent = self._absent.get(receipt.cohort.round, {})
        self._absent.clear()
        try:
            evaluation = evaluated(self.model, self.evaluate) if newest and self.evaluate is not None else {}
            now = perf_counter()
            done = self._round(receipt, evaluation, now - self._since, absent)
            for name in done.owners:
                self._said.pop(name, None)
            self._since = now
            self.rounds.append(done)
            self._clipping.look(self.rounds)
            self.on_round(done)
        except Exception as fault:  # noqa: BLE001 - the researcher's own, of any kind: also a NetworkError
            self._raised = fault
            if self.on_error == "stop":
                self.say("stopping the job: a callback raised an error")

    def _round(
        self, receipt: Receipt, evaluation: Mapping[str, float], seconds: float, absent: Mapping[str, str]
    ) -> Round:
        names = {owner.key: owner.name for owner in self.charter.owners}
        weights = {names[share.member]: share.weight for share in receipt.cohort.shares}
        owners = tuple(sorted(weights))
        weights = {name: weights[name] for name in owners}
        absent = {name: why for name, why in absent.items() if name not in weights}
        metrics = dict(receipt.record.metrics)
        return Round(receipt.cohort.round, owners, None, metrics, evaluation, seconds, weights, absent)

    def _refuse(self, refused: Refused) -> None:
        about = f" what was sent for round {refused.round}" if refused.round else ""
        raise _REFUSALS[refused.code](f"the aggregator refuses{about}: {refused.text}")

    def _check_job(self, job: bytes) -> None:
        if job != self.digest:
            raise StudyError("the aggregator answers about another job than the one that was submitted")

    def _check_finished(self, text: str) -> None:
        if not text and not self.finished:
            raise LedgerError(
                f"the aggregator calls the job finished, and there are receipts for {len(self.receipts)} of its"
                f" {self.agreed.rounds} rounds"
            )
        if text:
            self.say(f"the job is over after {len(self.receipts)} of {self.agreed.rounds} rounds: {text}")
