"""The phases of one round after another: propose, train, collect, commit, release; or void, in any of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Final

from cloister.aggregator.absences import Absences, reason
from cloister.aggregator.bodies import Body, Discarded, Update, views
from cloister.aggregator.chain_exchange import Chains
from cloister.aggregator.collection import Collection
from cloister.aggregator.own import InstanceIdentity, begin
from cloister.aggregator.pausing import Pauses
from cloister.aggregator.peers import ConnectedMember, ConnectedMembers, refused
from cloister.aggregator.releasing import cohort_of, compute, record_of, shares_of
from cloister.aggregator.runs import SIGNING_S, Run
from cloister.aggregator.signing import Committing, Drafted
from cloister.aggregator.table import FOLLOWING, MESSAGES, Phase
from cloister.aggregator.training import Training
from cloister.aggregator.weighing import Answer, weighing_of
from cloister.charter.charter import Charter
from cloister.errors import AggregationError, RoundError
from cloister.ledger.chain import quorum
from cloister.ledger.cohorts import Members, choose
from cloister.ledger.job import round_digest
from cloister.wire.limits import TEXT_CHARS
from cloister.wire.rounds import (
    Answers,
    Commit,
    Consent,
    Contribution,
    Declined,
    Doing,
    Draft,
    Over,
    Propose,
    Ready,
    Send,
    Settle,
    Standing,
    Waiting,
    Work,
)

_LEFT_OUT: Final = (
    "this owner is not in the round's cohort. Some owners have committed another cohort on the same model, which may"
    " still be released, and refuse one that differs too little from it. The next round is of all owners again"
)
_LOST: Final = "its connection was lost"
AGAIN: Final = 3
"""How often a round is begun again with owners of whom too few would commit the last one."""


@dataclass
class _Collecting:
    training: Training
    collection: Collection
    drafted: Drafted | None = None
    """The cohort of those that are in the collection; None where another one has to be drafted."""
    out: set[str] = field(default_factory=set)
    """The owners that have trained and are not in any later draft: they left, or spoiled their part."""
    deadlines: dict[str, float] = field(default_factory=dict)
    """When each contribution that was asked for has to begin, by the owner's name."""

    def settled(self, peer: ConnectedMember) -> bool:
        """Whether nothing more is wanted of a member: it has consented, and its contribution is here."""
        drafted = self.drafted is not None and peer.key not in self.drafted.missing
        return drafted and self.collection.has(peer.name)

    def awaits(self, key: str, name: str) -> bool:
        """Whether this owner, of the collection, holds up the others: with its consent, or with its contribution."""
        if self.drafted is not None and self.drafted.missing:
            return key in self.drafted.missing
        return self.collection.expects(name)


class RoundMachine:
    """The rounds of a run, with the members that are present; one is under way at a time."""

    def __init__(self, charter: Charter, *, own: InstanceIdentity, peers: ConnectedMembers, chains: Chains) -> None:
        self.run: Run | None = None
        self.highest = 0
        """The highest number that a round is known to have had."""
        self.now = 0.0
        """The time, by the clock of the events."""
        self.waits = ""
        """What it waits for, or why the last round came to nothing; empty where all is well."""
        self._charter = charter
        self._limits = charter.limits
        self._quorum = quorum(charter)
        self._own = own
        self._peers = peers
        self._chains = chains
        self._phase: Training | _Collecting | Committing | None = None
        self._pauses = Pauses()
        self._absences = Absences(charter, peers=peers)
        self.budgets: dict[str, int] = {}
        """The rounds that owners said that their data sets have left for this run, by fingerprint."""
        self._given_up: Counter[Members] = Counter()
        """How often rounds were given up with these owners there, and none was released."""
        self._kept: Committing | None = None
        """Of the rounds that were given up since the last release, the one with the most commits."""

    def start(self, run: Run) -> None:
        """Begins another run, for which the one before does not matter."""
        self.run, self._pauses, self._kept, self.waits = run, Pauses(), None, ""
        run.moved = self.now
        self.budgets.clear()
        self._absences.clear()

    @property
    def due(self) -> float | None:
        """The moment at which something has to be done although nothing happens."""
        match self._phase:
            case Training(until=until):
                return until
            case _Collecting(drafted=drafted, deadlines=deadlines):
                consents = [drafted.until] if drafted is not None and drafted.missing else []
                return min([*consents, *deadlines.values()], default=None)
            case Committing() as committing:
                return committing.due(now=self.now)
        return self._pauses.until(self.now)

    # Messages of owners

    def ready(self, peer: ConnectedMember, message: Ready) -> None:
        """Handles an owner's word that it has trained. Raises ``RoundError``: it is out of the round."""
        training = self._phase
        if not isinstance(training, Training) or training.number != message.round:
            raise MESSAGES[Ready].refusal(message)
        try:
            training.ready(peer, message)
            self._keep_budget(peer, message.standing)
        except RoundError as fault:
            if peer.name not in training.answers:
                self._absences.note({peer.key: f"what it said was refused: {fault}"})
            raise

    def room(self, peer: ConnectedMember, message: Contribution, *, body_bytes: int) -> Body:
        """Makes room for a contribution. Raises ``RoundError``: nobody asked for one of this length."""
        if self.run is None or not peer.owes or body_bytes != self.run.contribution_bytes:
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
        except RoundError as fault:
            self._leave_out_of(collecting, {peer.name: f"what it said was refused: {fault}"})
            raise

    def decline(self, peer: ConnectedMember, message: Declined) -> None:
        """Handles an owner's word that it leaves a round.

        Raises:
            RoundError: it is not this round, or what the owner says of its standing does not count.
        """
        if message.round != self._number:
            raise MESSAGES[Declined].refusal(message)
        why = f"it declined: {message.text}"
        match self._phase:
            case Training() as training:
                self._absences.note({peer.key: why})
                training.decline(peer, message)
                self._keep_budget(peer, message.standing)
            case _Collecting() as collecting:
                self._leave_out_of(collecting, {peer.name: why})
            case Committing() as committing if committing.has(peer.key) or peer.key in committing.refused:
                raise MESSAGES[Declined].refusal(message)
            case Committing() as committing if message.standing is None:  # with one it is about training, and late
                self._peers.note(f"{peer.name} does not commit round {message.round}: {reason(message.text)}")
                committing.refused.add(peer.key)

    def _keep_budget(self, peer: ConnectedMember, standing: Standing | None) -> None:
        """Keeps what an owner publishes of its budget, or forgets it where it does not any more."""
        if standing is not None and standing.left is not None:
            self.budgets[peer.key] = standing.left
        else:
            self.budgets.pop(peer.key, None)

    def consent(self, peer: ConnectedMember, message: Consent) -> None:
        """Handles a member's consent to a cohort. One to an earlier draft is passed over.

        Raises:
            RoundError: it does not count.
        """
        phase = self._phase
        if not isinstance(phase, _Collecting) or phase.training.number != message.round:
            raise MESSAGES[Consent].refusal(message)
        if phase.drafted is not None and phase.drafted.digest == message.cohort:
            phase.drafted.take(peer, message.signature)

    def commit(self, peer: ConnectedMember, message: Commit) -> None:
        """Handles an owner's commit of the cohort and its outcome. Raises ``RoundError``: it does not count."""
        phase = self._phase
        if not isinstance(phase, Committing) or phase.number != message.round:
            raise MESSAGES[Commit].refusal(message)
        phase.take(peer, message.signature)

    def leave_out(self, peer: ConnectedMember) -> None:
        """Goes on with the round without a member that has left, if that is possible."""
        if not peer.owner:
            return
        match self._phase:
            case Training() as training:
                training.leave_out(peer.name)
                self._absences.note({peer.key: _LOST})
            case _Collecting() as collecting if not collecting.settled(peer):
                self._leave_out_of(collecting, {peer.name: _LOST})

    # Steps

    def late(self) -> list[ConnectedMember]:
        """Acts on deadlines that have passed, and returns the members that have stalled, which must be dropped."""
        match self._phase:
            case Training() as training if self.now >= training.until:
                silent = [peer.key for peer in self._peers.owners() if training.waits_for(peer.name)]
                self._absences.note(dict.fromkeys(silent, "it had not trained in time"))
                training.close()
            case _Collecting(deadlines=deadlines) as collecting:
                self._close_consents(collecting)
                late = [peer for peer in self._peers.owners() if self.now >= deadlines.get(peer.name, self.now + 1)]
                self._leave_out_of(collecting, {peer.name: "its contribution did not come in time" for peer in late})
                return late
        return []

    def go_on(self) -> None:
        """Takes every step that can be taken."""
        step = True
        while step:
            before = self._phase
            match before:
                case Training() | _Collecting() if self.run is not None and self.run.stopping:
                    self.void(self.run.stopping)
                case Training() as training if training.over:
                    self._collect(training)
                case _Collecting() as collecting:
                    self._pull(collecting)
                case Committing() as committing:
                    self._go_on_committing(committing)
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
        self.waits = f"round {number} was void: {why}"[:TEXT_CHARS]
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
            case Committing():
                return Phase.COMMITTING
        return Phase.BETWEEN

    def _enter(self, phase: Training | _Collecting | Committing | None) -> None:
        """Enters a phase that may follow the present one."""
        before, self._phase = self.phase, phase
        if self.phase not in FOLLOWING[before]:
            raise AssertionError(f"{self.phase} does not follow {before}")

    def doing(self) -> dict[str, Doing]:
        """What each owner is at, by its fingerprint."""
        there = {peer.key for peer in self._peers.owners()}
        return {owner.key: self._doing(owner.key, owner.name, there) for owner in self._charter.owners}

    def _doing(self, key: str, name: str, there: Container[str]) -> Doing:
        out = key in self._absences.why
        match self._phase:
            case Training() as training if training.waits_for(name):
                return "awaited"
            case Training(answers=answers) if name in answers:
                return "done"
            case _Collecting(collection=collection) as collecting if name in collection.answers:
                return "awaited" if collecting.awaits(key, name) else "done"
            case Committing() as committing if committing.has(key):
                return "done"
            case Committing() as committing if key in there and key not in committing.refused:
                return "awaited"
            case Committing() as committing:
                out |= key in committing.refused
            case None:
                out = False
        return "out" if out else "there" if key in there else "away"

    def tell_absences(self, peer: ConnectedMember) -> None:
        """Tells a researcher that comes while a round is under way who is out of it."""
        if self.under_way:
            self._absences.tell(peer)

    @property
    def out(self) -> Mapping[str, str]:
        """Why owners are out of the round that is under way, or of the last one, by fingerprint."""
        return self._absences.why

    @property
    def number(self) -> int:
        """The number of the round that is under way; 0 between rounds."""
        return self._number

    @property
    def under_way(self) -> bool:
        """Whether there is a round."""
        return self._phase is not None

    @property
    def _number(self) -> int:
        match self._phase:
            case Training(number=number) | _Collecting(training=Training(number=number)):
                return number
            case Committing(number=number):
                return number
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
        if self._take_up_again():
            return
        if self._given_up[self._owners()] > AGAIN:
            self._wait(run, "too few of the owners that are there would commit a round, and others have to come")
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
        self.waits = ""
        for peer in self._peers.present():
            peer.waits = ""
        self._pauses.begin(self._owners())
        training = Training(
            number,
            digest=digest,
            owners={peer.name for peer in owners},
            ledger=ledger,
            until=self.now + seconds,
        )
        self._enter(training)
        self._peers.note(f"round {number} is proposed to {len(owners)} owners")
        self._absences.begin(number, researchers=run.researchers)

    def _take_up_again(self) -> bool:
        """Goes back to a round that was given up, if owners have come that can still commit it with those that did."""
        kept, owners = self._kept, self._peers.owners()
        if kept is not None and kept.head != self._chains.ledger.head:
            kept = self._kept = None
        if kept is None or not kept.within_reach(owners):
            return False
        self._kept = None
        self._enter(kept)
        self._peers.note(f"round {kept.number} is taken up again: owners have come that may commit it")
        return True

    def _wait(self, run: Run, text: str) -> None:
        """Tells the job's researchers the reason for waiting, each of them once until it changes."""
        self.waits = text
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
        """Shows the answers to those that they may free, and goes on with the owners that have trained."""
        if self.run is None:
            return
        for peer in self._peers.owners():
            if training.standings.wants_answers(peer):
                for part in training.standings.in_messages:
                    self._peers.tell(peer, Answers(round=training.number, answers=part))
        try:
            collection = self._collection(training.answers, run=self.run)
        except RoundError as fault:
            self.void(str(fault))
            return
        self._enter(_Collecting(training, collection))

    def _collection(self, answers: Mapping[str, Answer], *, run: Run) -> Collection:
        weighing = weighing_of(
            run.agreed, limits=self._limits, layout=run.layout, regions=run.regions, random=self._own.random
        )
        return Collection(answers, limits=self._limits, weighing=weighing, layout=run.layout, regions=run.regions)

    def _pull(self, collecting: _Collecting) -> None:
        """Takes the next step of a collection: a draft, contributions once all have consented to it, the outcome."""
        if collecting.drafted is None:
            self._draft(collecting)
        if self._phase is not collecting or collecting.drafted is None or collecting.drafted.missing or not self.run:
            return
        if collecting.collection.complete:
            self._settle(collecting, collecting.drafted, self.run)
            return
        owners = {peer.name: peer for peer in self._peers.owners()}
        for name in collecting.collection.next():
            collecting.deadlines[name] = self.now + self._own.upload_s
            owners[name].owes += 1
            self._peers.tell(owners[name], Send(round=collecting.training.number))

    def _draft(self, collecting: _Collecting) -> None:
        """Asks for the consents to a cohort of the owners that are left; nobody trains again for it."""
        training, owners = collecting.training, self._peers.owners()
        gone = training.answers.keys() - {peer.name for peer in owners} - collecting.out
        self._leave_out_of(collecting, dict.fromkeys(sorted(gone), _LOST))
        if self.run is None:
            return
        keys = {name: each.member.key for name, each in training.answers.items() if name not in collecting.out}
        bound = training.standings.bound(owners)
        try:
            chosen = frozenset(keys.values())
            if len(chosen) >= self._limits.floor:
                chosen = choose(chosen, bound=bound, floor=self._limits.floor, quorum=self._quorum)
        except RoundError as fault:
            # The answers may have freed the budgets of owners that have not trained: they may bring the way out.
            # And so may those of another charter's rounds, to which some have consented.
            elsewhere = any(each.elsewhere for each in bound.values())
            self.void(str(fault), hopeless=len(keys) == training.asked and not elsewhere)
            return
        self._collect_from(collecting, {name for name, key in keys.items() if key in chosen}, run=self.run)
        if self._phase is not collecting:
            return
        shares = shares_of(collecting.collection.answers, weights=collecting.collection.weights)
        cohort = cohort_of(training, run=self.run, ledger=self._chains.ledger, signer=self._own.signer, shares=shares)
        collecting.drafted = drafted = Drafted(cohort, until=self.now + self.run.signing_s)
        for peer in owners:
            if peer.key in drafted.members:
                self._peers.tell(peer, Draft(round=training.number, cohort=drafted.cohort))

    def _collect_from(self, collecting: _Collecting, names: set[str], *, run: Run) -> None:
        """Collects from these owners. Contributions that are here stay if all that are new are those left out."""
        try:
            if not names <= collecting.collection.answers.keys():
                answers = {name: collecting.training.answers[name] for name in names}
                before, collecting.collection = collecting.collection, self._collection(answers, run=run)
                collecting.collection.take_over(before)
            for name in collecting.collection.answers.keys() - names:
                collecting.deadlines.pop(name, None)
                collecting.collection.leave_out(name)
        except RoundError as fault:
            self.void(str(fault))

    def _close_consents(self, collecting: _Collecting) -> None:
        """Leaves out the members that have not consented in time: all of them at once, for one more draft."""
        drafted = collecting.drafted
        if drafted is None or self.now < drafted.until or not drafted.missing:
            return
        late = sorted(
            name for name, each in collecting.collection.answers.items() if each.member.key in drafted.missing
        )
        self._leave_out_of(collecting, dict.fromkeys(late, "it had not consented in time"))

    def _leave_out_of(self, collecting: _Collecting, names: Mapping[str, str]) -> None:
        """Goes on without these owners, for these reasons; the others have to consent to another cohort, and so may
        those that were left out of this one."""
        answers = collecting.training.answers
        self._absences.note({answers[name].member.key: why for name, why in names.items() if name in answers})
        collecting.out.update(names)
        if not collecting.out.isdisjoint(collecting.collection.answers):
            collecting.drafted = None

    def _settle(self, collecting: _Collecting, drafted: Drafted, run: Run) -> None:
        """Computes the outcome, and begins to ask owners to commit it."""
        training, collection, before = collecting.training, collecting.collection, self._chains.newest
        if before is None:
            return
        self._peers.note(f"round {training.number}: collected {len(collection.answers)} of {training.asked}")
        try:
            outcome = compute(
                run,
                before=before,
                mean=collection.mean(),
                done=self._chains.ledger.done(run.digest),
                metrics=collection.metrics(),
                salt=self._own.salt(),
            )
        except AggregationError as fault:
            self.void(str(fault))
            return
        passed_over = training.answers.keys() - collection.answers.keys() - collecting.out
        left_out = [peer for peer in self._peers.owners() if peer.name in passed_over]
        self._absences.note(dict.fromkeys((peer.key for peer in left_out), _LEFT_OUT))
        for peer in left_out:
            self._peers.tell(peer, refused(training.number, RoundError(_LEFT_OUT)))
        self._enter(Committing(training.number, drafted=drafted, outcome=outcome, ledger=self._chains.ledger))

    def _go_on_committing(self, committing: Committing) -> None:
        """Asks those that are there and those that come, until a quorum has committed, or nobody should wait."""
        owners, drafted = self._peers.owners(), committing.drafted
        signing_s = SIGNING_S if self.run is None else self.run.signing_s
        for peer in committing.to_ask(owners, until=self.now + signing_s):
            asked = Settle(
                round=committing.number,
                cohort=drafted.cohort,
                outcome=committing.outcome.digest,
                consents=drafted.consents,
            )
            self._peers.tell(peer, asked)
        if committing.complete:
            self._release(committing)
        elif committing.hopeless(owners, now=self.now):
            self._give_up(owners)
        elif self.run is not None and committing.short_of(owners):
            text = f"round {committing.number} waits for {committing.short_of(owners)} more of its owners to commit it"
            self._wait(self.run, text)

    def _give_up(self, owners: list[ConnectedMember]) -> None:
        """Ends a round that those who are there will not commit. What they answer to the next one may be the way out;
        but with the same owners a few times only, so that a liar does not spend the others' budgets by refusing."""
        there = frozenset(peer.key for peer in owners)
        self._given_up[there] += 1
        if isinstance(self._phase, Committing) and self._phase.more_than(self._kept):
            self._kept = self._phase
        self.void("too few of the owners that are there would commit it", hopeless=self._given_up[there] > AGAIN)

    def _release(self, committing: Committing) -> None:
        record = record_of(
            committing.drafted.cohort,
            committing.outcome,
            consents=committing.drafted.consents,
            commits=committing.commits,
            time=self._own.time(),
            sign=self._own.sign,
        )
        before = self._chains.ledger.model
        self._chains.ledger.append(record)
        self._chains.held = committing.outcome.model
        self._enter(None)
        if self.run is not None:
            self.run.moved = self.now
        self._pauses, self._kept, self.waits = Pauses(), None, ""
        del self._given_up[self._owners()]
        self._peers.note(f"round {committing.number} is released")
        for peer in self._peers.present():
            peer.refused = 0
            repeats = self.run is not None and (peer.model, peer.job) == (before, self.run.digest)
            if peer.owner and peer.key not in committing.drafted.members:  # it may have refused the job
                repeats = False
            self._chains.bring(peer, step=committing.outcome.step if repeats else None)
