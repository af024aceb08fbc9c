"""An aggregator as a state machine: events come in, effects come out.

It has no sockets, clocks, threads or chance of its own; ``cloister.enclave.server`` brings them. A member's message is
either used or answered by ``Refused``: nothing is half-added, and a round goes on without a member that spoils its own
part in it.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from cloister.aggregator import table
from cloister.aggregator.bodies import Body, HandedOver, Submission
from cloister.aggregator.chain_exchange import Chains
from cloister.aggregator.events import Effect, Event, Joined, Left, Said, Tick
from cloister.aggregator.own import InstanceIdentity
from cloister.aggregator.peers import ConnectedMember, ConnectedMembers, refused
from cloister.aggregator.resuming import Resuming
from cloister.aggregator.round import RoundMachine
from cloister.aggregator.runs import Run, begin
from cloister.aggregator.table import Standing
from cloister.charter.charter import Charter
from cloister.errors import CloisterError, JobError, RoundError
from cloister.ledger.chain import Ledger
from cloister.ledger.next_model import averages_of
from cloister.ledger.sync import ModelState
from cloister.wire.fields import Message
from cloister.wire.limits import JOB_BYTES, TEXT_CHARS
from cloister.wire.rounds import (
    Accepted,
    Chain,
    Commit,
    Consent,
    Contribution,
    Declined,
    Finished,
    Join,
    OwnerStatus,
    Ready,
    Resubmitted,
    Status,
    Stop,
    Submit,
)

REFUSALS: Final = 16
"""The number of refused messages, with no release in between, after which a member is dropped."""
LEAP: Final = 1 << 20
"""The most by which one member's word can move the numbers of rounds: nobody may use them up."""


class AggregatorProtocol:
    """An aggregator's part in studies under one charter, for one instance.

    Args:
        charter: one without faults.
        own: the instance's identity.
    """

    def __init__(self, charter: Charter, *, own: InstanceIdentity) -> None:
        self._charter = charter
        self._peers = ConnectedMembers()
        self._chains = Chains(charter, peers=self._peers)
        self._course = RoundMachine(charter, own=own, peers=self._peers, chains=self._chains)
        self._resuming = Resuming(charter, peers=self._peers)
        self._now = 0.0
        self._in_vain: Counter[str] = Counter()
        """The submissions of each researcher since its newest that was taken."""

    @property
    def ledger(self) -> Ledger:
        """The records so far; not to be changed."""
        return self._chains.ledger

    @property
    def due(self) -> float | None:
        """The moment at which a ``Tick`` is wanted, by the clock of ``handle``; None: at none."""
        times = [time for time in (self._chains.due, self._course.due, self._resuming.due) if time is not None]
        return min(times, default=None)

    def expect(self, member: str, message: Message, *, body_bytes: int) -> Body | None:
        """The place for the body of a member's message; None if it has none.

        Raises:
            CloisterError: nobody asked for a body of this length. It must not be read.
        """
        peer = self._peers.all.get(member)
        if not body_bytes:
            return None
        if peer is None:
            raise RoundError("a body from somebody who is not there")
        match message:
            case Contribution():
                return self._course.room(peer, message, body_bytes=body_bytes)
            case Chain():
                return self._chains.expect(peer, message, body_bytes=body_bytes)
            case Resubmitted():
                return self._resuming.expect(peer, body_bytes=body_bytes)
            case Submit() if peer.joined and peer.member.role == "researcher":
                return self._room_for_job(peer, message, body_bytes=body_bytes)
        raise RoundError(f"{type(message).__name__} came with a body that nobody asked for")

    def handle(self, event: Event, *, now: float) -> list[Effect]:
        """Handles an event, and returns the effects. ``now``: seconds, by a clock that never goes back."""
        self._now = self._course.now = max(now, self._now)
        match event:
            case Joined(member=key):
                self._enter(key)
            case Left(member=key) if key in self._peers.all:
                self._forget(self._peers.all.pop(key))
            case Said(member=key, message=message, body=body) if key in self._peers.all:
                self._hear(self._peers.all[key], message, body)
            case Tick() | Left() | Said():
                pass
        self._keep_time()
        self._take_jobs()
        self._go_on()
        self._resuming.tell()
        if self._course.run is None:
            self._resuming.ask(now=self._now)
        return self._peers.effects()

    def _enter(self, key: str) -> None:
        member = self._charter.member(key)
        if member is not None and key not in self._peers.all:
            self._peers.enter(member)

    def _forget(self, peer: ConnectedMember) -> None:
        self._chains.forget(peer, now=self._now)
        if self._course.run is not None:
            self._course.run.researchers.discard(peer.key)
        self._resuming.forget(peer)
        self._course.leave_out(peer)

    def _drop(self, peer: ConnectedMember, why: str) -> None:
        self._peers.drop(peer, why)
        self._forget(peer)

    def _keep_time(self) -> None:
        late = [*self._chains.late(now=self._now), *self._resuming.late(now=self._now)]
        for peer in {peer.key: peer for peer in late}.values():  # one may owe both a model and a job
            self._drop(peer, "it did not hand over what it was asked for in time")
        for peer in self._course.late():
            self._drop(peer, "its contribution did not come in time")

    def _go_on(self) -> None:
        while True:
            run = self._course.run
            try:
                self._course.go_on()
            except CloisterError as fault:  # the TEE gives no evidence
                self._course.void("this instance cannot go on")
                if run is not None:
                    self._end(run, f"this instance cannot go on: {fault}"[:TEXT_CHARS], everywhere=False)
                return
            if run is None or run.over or self._course.under_way:
                return
            if self._chains.newest is None and not run.stopping:
                self._find_model(run)
                return
            if not run.ended(self.ledger):
                return
            self._end(run, run.stopping)

    def _find_model(self, run: Run) -> None:
        model, before = self.ledger.model, self.ledger.receipts[-1:]
        last = self._charter.job(before[0].cohort.name) if before else None
        vectors = 0 if last is None else averages_of(last)
        holders = [peer for peer in self._peers.present() if model is not None and peer.model == model]
        self._chains.ask_for_model(holders, job=run.job, vectors=vectors, now=self._now)

    # What anybody of the study may ask

    def status(self) -> Status:
        """How the study stands."""
        course, ledger, run = self._course, self.ledger, self._course.run
        running = None if run is None or run.over else run
        owners = (
            OwnerStatus(key, doing, course.out.get(key, ""), course.budgets.get(key))
            for key, doing in course.doing().items()
        )
        return Status(
            job="" if running is None else running.agreed.name,
            done=0 if running is None else ledger.rounds_of(running.agreed.name),
            rounds=0 if running is None else running.agreed.rounds,
            round=course.number,
            phase=course.phase,
            text="" if running is None else course.waits,
            left=self._charter.limits.rounds - ledger.released,
            owners=tuple(owners),
        )

    def stop(self, member: str, *, now: float) -> list[Effect]:
        """Ends the job that runs, for a researcher that asks from outside the study.

        Raises:
            JobError: there is none, or it is another researcher's, who is there, and it goes on.
        """
        self._now = self._course.now = max(now, self._now)
        run, asking = self._course.run, self._charter.member(member)
        if run is None or run.over or asking is None or asking.role != "researcher":
            raise JobError("there is no job that this member could stop")
        if not run.may_stop(member, now=self._now):
            raise JobError(f"it is not yours to stop: {run.occupies(self.ledger)}")
        run.stopping = run.stopping or f"stopped by {asking.name}"
        self._go_on()
        return self._peers.effects()

    # Messages of members

    def _hear(self, peer: ConnectedMember, message: Message, body: Body | None) -> None:
        try:
            self._take(peer, message, body)
        except CloisterError as fault:
            self._refuse(peer, message, fault)

    def _refuse(self, peer: ConnectedMember, message: Message, fault: CloisterError) -> None:
        peer.refused += 1
        self._peers.note(f"refused {peer.name}'s {type(message).__name__}: {fault}")
        number = 0 if isinstance(message, Join) else getattr(message, "round", 0)
        self._peers.tell(peer, refused(number, fault))
        if isinstance(message, Chain | Join):
            self._drop(peer, "its records cannot be gone on with")
        elif isinstance(message, Resubmitted):
            self._drop(peer, "it handed over no job that it was asked for")
        elif peer.refused >= REFUSALS:
            self._drop(peer, "too much of what it says is refused")

    def _take(self, peer: ConnectedMember, message: Message, body: Body | None) -> None:
        owed = isinstance(message, Contribution) and peer.owes > 0
        if isinstance(message, Contribution):
            peer.owes = max(0, peer.owes - 1)  # it has come, wanted or not
        if self._crossed_the_release(peer, message):
            return
        table.check(message, role=peer.member.role, standing=peer.standing, phase=self._course.phase)
        match message:
            case Join():
                self._join(peer, message)
            case Chain():
                self._take_chain(peer, message, body)
            case Submit():
                self._keep_submitted(peer, message, body)
            case Resubmitted():
                self._take_up(peer, body)
            case Stop():
                self._stop(peer)
            case _:
                self._take_of_round(peer, message, body if owed else None)

    def _take_of_round(self, peer: ConnectedMember, message: Message, body: Body | None) -> None:
        match message:
            case Ready():
                self._course.ready(peer, message)
            case Contribution():
                self._course.contribute(peer, message, body)
            case Declined():
                self._course.decline(peer, message)
            case Consent():
                self._course.consent(peer, message)
            case Commit():
                self._course.commit(peer, message)

    def _crossed_the_release(self, peer: ConnectedMember, message: Message) -> bool:
        """Whether it is a witness's message about a round that was released without it."""
        row = table.MESSAGES.get(type(message))
        passed_over = row is not None and row.passed_over and peer.owner and peer.standing is Standing.UP_TO_DATE
        return passed_over and getattr(message, "round", None) == self.ledger.last_round

    def _join(self, peer: ConnectedMember, message: Join) -> None:
        known = max(self._course.highest, self.ledger.last_round)
        peer.answered = min(message.round, known + LEAP)
        self._course.highest = max(self._course.highest, peer.answered)
        peer.names = message.job if peer.owner else None
        self._chains.join(peer, message, now=self._now)
        self._peers.note(f"{peer.name} is there")

    def _take_chain(self, peer: ConnectedMember, message: Chain, body: Body | None) -> None:
        if body is None:
            body = self._chains.expect(peer, message, body_bytes=0)
        if not isinstance(body, HandedOver):
            return
        if self._chains.take(peer, message, body, now=self._now):
            self._peers.note(f"{peer.name} has handed over a chain with {self.ledger.released} rounds")
            self._course.begin_again("there are newer records than those it began with")
            run = self._course.run
            if run is not None and not run.over:
                try:
                    self._check_place(run)
                except JobError as fault:
                    self._end(run, str(fault))
        for each in self._peers.present():
            self._chains.bring(each)

    # Jobs

    def _keep_submitted(self, peer: ConnectedMember, message: Submit, body: Body | None) -> None:
        if not isinstance(body, Submission) or peer.submitted is not None:
            raise JobError("one job and its model come in the body of the message that submits it")
        peer.submitted = (message, body)

    def _room_for_job(self, peer: ConnectedMember, message: Submit, *, body_bytes: int) -> Submission:
        if message.job > min(JOB_BYTES, body_bytes):
            raise JobError("the job is longer than what came with it, or than a job may be")
        for other in [each for each in self._peers.all.values() if each.submits]:
            # The one under way counts already. Whoever had its turn, and made nothing of it, gives way.
            if other is peer or self._in_vain[other.key] <= self._in_vain[peer.key] + 1:
                raise JobError("another job is arriving at the moment; try again later")
            self._drop(other, "another researcher submits a job, and its own ones came to nothing")
        self._in_vain[peer.key] += 1
        run = self._course.run
        running, occupied = (None, "") if run is None or run.over else (run.digest, run.occupies(self.ledger))
        peer.submitting = Submission(
            message.job, body_bytes=body_bytes, charter=self._charter, running=running, occupied=occupied
        )
        return peer.submitting

    def _take_jobs(self) -> None:
        """Looks at jobs, once the researchers that submitted them have handed over their records."""
        for peer in self._peers.present():
            if peer.submitted is not None:
                message, body = peer.submitted
                peer.submitting = peer.submitted = None
                try:
                    self._submit(peer, body)
                except CloisterError as fault:
                    self._refuse(peer, message, fault)

    def _submit(self, peer: ConnectedMember, body: Submission) -> None:
        if body.fault is not None:
            raise body.fault
        run = self._course.run
        if run is None or run.over:
            run = self._begin(body)
        elif run.digest != body.digest:
            raise JobError(run.occupies(self.ledger))
        if run.may_stop(peer.key, now=self._now):  # else another's job would be hers by sending it once more
            run.submitters.add(peer.key)
        run.researchers.add(peer.key)
        peer.job = run.digest
        del self._in_vain[peer.key]
        done = self.ledger.done(run.digest)
        self._peers.tell(peer, Accepted(job=run.digest, done=done))
        self._peers.note(f"{peer.name}'s job of {run.agreed.rounds} rounds is taken; {done} are done")
        self._course.tell_absences(peer)

    def _begin(self, body: Submission) -> Run:
        job, agreed, vector, ledger = body.job, body.agreed, body.vector, self.ledger
        if job is None or agreed is None or vector is None:
            raise JobError("the job that this one joins has just ended; submit it again")
        if body.model != job.start:
            raise JobError("the model that came with the job is not the one that it says it starts from")
        run = begin(job, agreed, data=bytes(body.data), digest=body.digest)
        self._check_place(run)
        if job.start == ledger.model:
            self._chains.held = ModelState(job.start, vector.data.cast("B"))
        self._start(run)
        return run

    def _start(self, run: Run) -> None:
        self._course.start(run)
        self._resuming.begin(run.digest)

    def _take_up(self, peer: ConnectedMember, body: Body | None) -> None:
        """Goes on with a job that owners were told is under way, when this instance has had none."""
        found = self._resuming.take(peer, body)
        if self._course.run is not None:
            return
        try:
            if found.read is None:
                raise found.fault or JobError("there is no job in it")
            run = begin(*found.read, data=bytes(found.data), digest=found.digest)
            self._check_place(run)
        except CloisterError as fault:
            self._resuming.refuse(found.digest)
            self._peers.note(f"the job that owners call under way is not gone on with: {fault}")
            return
        self._start(run)
        done = self.ledger.done(run.digest)
        self._peers.note(f"{peer.name} has handed over the job that was under way; {done} of its rounds are done")

    def _check_place(self, run: Run) -> None:
        """Checks that a job can go on from the newest record. Raises ``JobError``."""
        job, ledger = run.job, self.ledger
        done, name = ledger.done(run.digest), run.agreed.name
        wanted, left = run.agreed.rounds - ledger.rounds_of(name), self._charter.limits.rounds - ledger.released
        if not (done or wanted):
            raise JobError(f"all {run.agreed.rounds} rounds of the job {name!a} are released, and it had other models")
        if wanted > left:
            raise JobError(f"it asks for {wanted} rounds more, and {left} of the charter's are left")
        if done and wanted and ledger.receipts[-1].cohort.job != run.digest:
            raise JobError("another job has gone on from its model since; submit one that starts from the newest")
        if not done and job.start != ledger.model:
            raise JobError("it starts neither from the charter's first model nor from the newest record's")

    def _stop(self, peer: ConnectedMember) -> None:
        run = self._course.run
        if run is None or run.over or peer.key not in run.researchers:
            raise JobError("there is no job of this researcher's to stop")
        if not run.may_stop(peer.key, now=self._now):
            raise JobError(f"it is not yours to stop: {run.occupies(self.ledger)}")
        run.stopping = run.stopping or "stopped by the researcher"

    def _end(self, run: Run, text: str, *, everywhere: bool = True) -> None:
        """Ends a job. ``everywhere``: at whatever instance, so that owners are told too."""
        run.over = True
        done = self.ledger.done(run.digest)
        finished = Finished(job=run.digest, done=done, text=text)
        for key in sorted(run.researchers):
            self._peers.tell(self._peers.all[key], finished)
        run.researchers.clear()
        if everywhere:
            self._resuming.end(finished)
        self._peers.note(f"the job is over after {done} rounds" + (f": {text}" if text else ""))
