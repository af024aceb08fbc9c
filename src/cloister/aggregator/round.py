"""The phases of one round after another: propose, train, collect, sign, release; or void, in any of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cloister.aggregator.bodies import Body, Discarded, Update, views
from cloister.aggregator.chain_exchange import Chains
from cloister.aggregator.collection import Collection
from cloister.aggregator.own import InstanceIdentity, begin
from cloister.aggregator.pausing import Pauses
from cloister.aggregator.peers import ConnectedMember, ConnectedMembers, refused
from cloister.aggregator.releasing import Outcome, Signing, cohort_of, compute, shares_of
from cloister.aggregator.runs import Run
from cloister.aggregator.table import FOLLOWING, MESSAGES, Phase
from cloister.aggregator.training import Training
from cloister.charter.charter import Charter
from cloister.errors import AggregationError, RoundError
from cloister.ledger import records
from cloister.ledger.chain import quorum
from cloister.ledger.cohorts import Members, choose, would_be_signed
from cloister.ledger.job import round_digest
from cloister.wire.rounds import (
    Contribution,
    Declined,
    Over,
    Propose,
    Ready,
    Send,
    Sign,
    Signature,
    Waiting,
    Work,
)

_LEFT_OUT: Final = (
    "this owner is not in the round's cohort. Some owners have signed another cohort on the same model, which was never"
    " released, and refuse one that differs too little from it. The next round is of all owners again"
)
SIGN_S: Final = 30.0
"""The time that members have to sign."""


@dataclass
class _Collecting:
    training: Training
    collection: Collection
    deadlines: dict[str, float] = field(default_factory=dict)
    """When each contribution that was asked for has to begin, by the owner's name."""


@dataclass
class _Signing:
    signing: Signing
    outcome: Outcome


class RoundMachine:
    """The rounds of a run, with the members that are present; one is under way at a time."""

    def __init__(self, charter: Charter, *, own: InstanceIdentity, peers: ConnectedMembers, chains: Chains) -> None:
        self.run: Run | None = None
        self.highest = 0
        """The highest number that a round is known to have had."""
        self.now = 0.0
        """The time, by the clock of the events."""
        self._charter = charter
        self._limits = charter.limits
        self._quorum = quorum(charter)
        self._own = own
        self._peers = peers
        self._chains = chains
        self._phase: Training | _Collecting | _Signing | None = None
        self._pauses = Pauses()

    def start(self, run: Run) -> None:
        """Begins another run, for which the one before does not matter."""
        self.run, self._pauses = run, Pauses()

    @property
    def due(self) -> float | None:
        """The moment at which something has to be done although nothing happens."""
        match self._phase:
            case Training(until=until):
                return until
            case _Collecting(deadlines=deadlines):
                return min(deadlines.values(), default=None)
            case _Signing(signing=signing):
                return signing.until
        return self._pauses.until(self.now)

    # Messages of owners

    def ready(self, peer: ConnectedMember, message: Ready) -> None:
        """Handles an owner's word that it has trained. Raises ``RoundError``: it is out of the round."""
        training = self._phase
        if not isinstance(training, Training) or training.number != message.round:
            raise MESSAGES[Ready].refusal(message)
        training.ready(peer, message)

    def room(self, peer: ConnectedMember, message: Contribution, *, body_bytes: int) -> Body:
        """Makes room for a contribution. Raises ``RoundError``: nobody asked for one of this length."""
        if self.run is None or not peer.owes or body_bytes != self.run.nbytes:
            raise RoundError("a contribution that nobody asked for, or of another length than the model")
        collecting = self._expecting(peer, message)
        if collecting is None:
            return Discarded(body_bytes)
        collecting.deadlines.pop(peer.name, None)  # it has begun, so that its own pace decides, at its connection
        return collecting.collection.buffer(peer.name, salt=message.salt)

    def contribute(self, peer: ConnectedMember, message: Contribution, body: Body | None) -> None:
        """Handles a contribution that has arrived. Raises ``RoundError``: it is not used."""
        collecting = self._expecting(peer, message)
        if collecting is None:
            raise MESSAGES[Contribution].refusal(message)
        collecting.deadlines.pop(peer.name, None)
        try:
            if not isinstance(body, Update):
                raise RoundError("a contribution without its values")
            collecting.collection.take(peer.name, body)
        except RoundError:
            self._leave_out_of(collecting, peer)
            raise

    def decline(self, peer: ConnectedMember, message: Declined) -> None:
        """Handles an owner's word that it leaves a round. Raises ``RoundError``: it is not this round."""
        if message.round != self._number:
            raise MESSAGES[Declined].refusal(message)
        self._peers.note(f"{peer.name} declines round {message.round}")
        self.leave_out(peer)

    def sign(self, peer: ConnectedMember, message: Signature) -> None:
        """Handles an owner's signature of the cohort. Raises ``RoundError``: it does not count."""
        phase = self._phase
        if not isinstance(phase, _Signing) or phase.signing.number != message.round:
            raise MESSAGES[Signature].refusal(message)
        phase.signing.take(peer.key, message)

    def leave_out(self, peer: ConnectedMember) -> None:
        """Goes on with the round without this member, if that is possible."""
        match self._phase:
            case Training() as training:
                training.leave_out(peer.name)
            case _Collecting() as collecting:
                self._leave_out_of(collecting, peer)
            case _Signing(signing=signing):
                signing.abandon(peer.key)

    # Steps

    def late(self) -> list[ConnectedMember]:
        """Acts on deadlines that have passed, and returns the members that have stalled, which must be dropped."""
        match self._phase:
            case Training() as training if self.now >= training.until:
                training.close()
            case _Collecting(deadlines=deadlines):
                return [peer for peer in self._peers.owners() if self.now >= deadlines.get(peer.name, self.now + 1)]
            case _Signing(signing=signing) if self.now >= signing.until:
                self.void("not all have signed in time")
        return []

    def go_on(self) -> None:
        """Takes every step that can be taken."""
        step = True
        while step:
            before = self._phase
            match before:
                case Training() as training if training.over:
                    self._collect(training)
                case _Collecting() as collecting:
                    self._pull(collecting)
                case _Signing(signing=signing, outcome=outcome) if signing.complete:
                    self._release(signing, outcome)
                case _Signing(signing=signing) if signing.hopeless:
                    self.void("not enough signatures can come", hopeless=True)
                case None:
                    self._propose()
            step = self._phase is not before

    def void(self, why: str, *, hopeless: bool = False) -> None:
        """Ends the round that is under way, if there is one. ``hopeless``: the same owners would end it again."""
        if self._phase is None:
            return
        number = self._number
        self._enter(None)
        self._peers.tell_all(Over(round=number, text=why))
        self._peers.note(f"round {number} is void: {why}")
        self._pauses.fail(self._owners(), now=self.now, hopeless=hopeless)

    def begin_again(self, why: str) -> None:
        """Ends the round that is under way, if there is one: it began on a record that is not the newest any more."""
        self.void(why)
        self._pauses = Pauses()

    @property
    def phase(self) -> Phase:
        """The phase that the round is in."""
        match self._phase:
            case Training():
                return Phase.TRAINING
            case _Collecting():
                return Phase.COLLECTING
            case _Signing():
                return Phase.SIGNING
        return Phase.BETWEEN

    def _enter(self, phase: Training | _Collecting | _Signing | None) -> None:
        """Enters a phase that may follow the present one."""
        before, self._phase = self.phase, phase
        if self.phase not in FOLLOWING[before]:
            raise AssertionError(f"{self.phase} does not follow {before}")

    @property
    def under_way(self) -> bool:
        """Whether there is a round."""
        return self._phase is not None

    @property
    def _number(self) -> int:
        match self._phase:
            case Training(number=number) | _Collecting(training=Training(number=number)):
                return number
            case _Signing(signing=signing):
                return signing.number
        return 0

    def _owners(self) -> frozenset[str]:
        """The owners that are present, by fingerprint."""
        return frozenset(peer.key for peer in self._peers.owners())

    def _expecting(self, peer: ConnectedMember, message: Contribution) -> _Collecting | None:
        phase = self._phase
        if isinstance(phase, _Collecting) and message.round == phase.training.number:
            return phase if phase.collection.expects(peer.name) else None
        return None

    def _propose(self) -> None:
        run, ledger, held = self.run, self._chains.ledger, self._chains.newest
        owners = self._peers.owners()
        if run is None or run.ended(ledger):
            return
        if len(owners) < self._quorum:
            self._wait(run, f"{len(owners)} of the owners are there, and {self._quorum} have to be")
        if len(owners) < self._quorum or held is None:
            return
        if not self._pauses.over(self._owners(), now=self.now):
            return
        self._enrol()
        number = self.highest = 1 + max(self.highest, ledger.last_round)
        model, head, seconds = held.digest, ledger.head, float(run.agreed.max_s)
        digest = round_digest(run.digest, charter=self._charter.digest, number=number, model=model, head=head)
        for peer in owners:
            self._chains.bring(peer)
            if peer.job != run.digest:
                peer.job = run.digest
                self._peers.tell(peer, Work(job=run.digest), views([run.data]))
            proposed = Propose(
                round=number,
                job=run.digest,
                model=model,
                sequence=ledger.sequence,
                head=head,
                digest=digest,
                seconds=seconds,
            )
            self._peers.tell(peer, proposed)
        for peer in self._peers.present():
            peer.waits = ""
        self._pauses.begin(self._owners())
        training = Training(
            number,
            digest=digest,
            owners={peer.name for peer in owners},
            limits=self._limits,
            until=self.now + seconds,
            used=ledger.commitments,
        )
        self._enter(training)
        self._peers.note(f"round {number} is proposed to {len(owners)} owners")

    def _wait(self, run: Run, text: str) -> None:
        """Tells the job's researchers the reason for waiting, each of them once until it changes."""
        for peer in self._peers.present():
            if peer.key in run.researchers and peer.waits != text:
                peer.waits = text
                self._peers.tell(peer, Waiting(text=text))

    def _enrol(self) -> None:
        """Appends this instance's record, before its first round and after every chain that it took over."""
        ledger, own = self._chains.ledger, self._own
        if ledger.signer == own.signer:
            return
        ledger.append(begin(ledger, own=own))
        for peer in self._peers.present():
            self._chains.bring(peer)

    def _collect(self, training: Training) -> None:
        if self.run is None:
            return
        try:
            self._leave_out_for_now(training)
        except RoundError as fault:
            self.void(str(fault), hopeless=True)
            return
        try:
            collection = Collection(
                training.answers,
                limits=self._limits,
                weights=self.run.agreed.weights,
                layout=self.run.layout,
                regions=self.run.regions,
            )
        except RoundError as fault:
            self.void(str(fault))
            return
        self._enter(_Collecting(training, collection))

    def _leave_out_for_now(self, training: Training) -> None:
        if not any(training.signed.values()):
            return
        trained = frozenset(each.member.key for each in training.answers.values())
        chosen = choose(trained, signed=self._signed(training), floor=self._limits.floor, quorum=self._quorum)
        for peer in [each for each in self._peers.owners() if each.key in trained - chosen]:
            training.leave_out(peer.name)
            self._peers.tell(peer, refused(training.number, RoundError(_LEFT_OUT)))

    def _signed(self, training: Training) -> dict[str, frozenset[Members]]:
        """The cohorts on the round's model that owners that are present say they have signed."""
        return {peer.key: training.signed.get(peer.key, frozenset()) for peer in self._peers.owners()}

    def _pull(self, collecting: _Collecting) -> None:
        if self.run is None:
            return
        if collecting.collection.complete:
            self._ask_to_sign(collecting, self.run)
            return
        owners = {peer.name: peer for peer in self._peers.owners()}
        for name in collecting.collection.next():
            collecting.deadlines[name] = self.now + self._own.upload_s
            owners[name].owes = True
            self._peers.tell(owners[name], Send(round=collecting.training.number))

    def _leave_out_of(self, collecting: _Collecting, peer: ConnectedMember) -> None:
        collecting.deadlines.pop(peer.name, None)
        if peer.name in collecting.collection.answers:
            try:
                collecting.collection.leave_out(peer.name)
            except RoundError as fault:
                self.void(str(fault))

    def _ask_to_sign(self, collecting: _Collecting, run: Run) -> None:
        training, collection, before = collecting.training, collecting.collection, self._chains.newest
        if before is None:
            return
        members = frozenset(each.member.key for each in collection.answers.values())
        if not would_be_signed(
            members, signed=self._signed(training), floor=self._limits.floor, quorum=self._quorum
        ):  # nobody is asked in vain: an owner that signs refuses cohorts too near to it from then on
            self.void("not all who are left in it would sign, or too few who are there")
            return
        self._peers.note(f"round {training.number}: collected {len(collection.answers)} of {training.asked}")
        try:
            outcome = compute(
                run, before=before, mean=collection.mean(), metrics=collection.metrics(), salt=self._own.salt()
            )
        except AggregationError as fault:
            self.void(str(fault))
            return
        shares = shares_of(collection.answers, weights=collection.weights)
        cohort = cohort_of(
            training,
            run=run,
            ledger=self._chains.ledger,
            signer=self._own.signer,
            model=before.digest,
            shares=shares,
            outcome=outcome.digest,
        )
        owners = self._peers.owners()
        signing = Signing(
            number=training.number,
            cohort=records.encode(cohort),
            members=members,
            asked=self._owners(),
            quorum=self._quorum,
            until=self.now + SIGN_S,
        )
        for peer in owners:
            self._peers.tell(peer, Sign(round=signing.number, cohort=signing.cohort))
        self._enter(_Signing(signing, outcome))

    def _release(self, signing: Signing, outcome: Outcome) -> None:
        self._chains.ledger.append(signing.record(outcome, time=self._own.time(), sign=self._own.sign))
        self._chains.held = outcome.model
        self._enter(None)
        self._pauses = Pauses()
        self._peers.note(f"round {signing.number} is released")
        for peer in self._peers.present():
            peer.refused = 0
            self._chains.bring(peer)
