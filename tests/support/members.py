"""A study as one owner's ``Member`` sees it: an aggregator that holds real keys and says whatever a test has it say."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np

from cloister.charter import Charter
from cloister.charter.jobs import AgreedJob, Sampling
from cloister.charter.owner_limits import Floors
from cloister.ledger import answers, records
from cloister.ledger import job as jobs
from cloister.ledger.answers import Answer, Committed
from cloister.ledger.chain import Ledger
from cloister.ledger.job import Job, Part, Tensors, job_digest, round_digest
from cloister.ledger.noise import noise_of
from cloister.ledger.records import Cohort, Noised, Share, outcome_digest
from cloister.node.study.effects import Effect, Leave, Note, Prove, Say, Train
from cloister.node.study.journal import Records
from cloister.node.study.member import Member
from cloister.wire import rounds as w
from cloister.wire.optimizers import SGD
from cloister.wire.tensors import TensorSpec
from tests.support import chains, charters
from tests.support.chains import Instance
from tests.support.owners import make_job, plan_of

PARTS: Final = (Part("w", TensorSpec("float32", (4,)), buffer=False),)
PLAN: Final = plan_of(PARTS)
START: Final = np.arange(4, dtype=np.float32).tobytes()
UPDATE: Final = np.full(4, 0.25, np.float32).tobytes()
NORMS: Final = (0.5, 0.0)
"""Of its parameters and its buffers, of which it has none."""
TAG: Final = "#mri"
OWNERS: Final = ("bob", "alice", "chuck")


def agreed_job(**changed: Any) -> AgreedJob:
    """The job that they agree on, unless it is ``changed``."""
    return charters.agreed_job(hashlib.sha256(PLAN).digest(), **{"rounds": 10, "weights": "rows"} | changed)


def charter(**changed: Any) -> Charter:
    """Bob, Alice and Chuck agree on a job, the model and the loss."""
    return charters.charter(**terms(**changed))


def hidden(**changed: Any) -> dict[str, Any]:
    """What ``charters.text`` takes for a charter of theirs in which noise hides each record."""
    drawn = {"weights": "uniform", "steps": 1, "optimizer": SGD(0.5), "sampling": Sampling(rate=0.25, rows=90)}
    noise = '{ unit = "record", multiplier = 2.0, delta = 1e-5 }'
    given: dict[str, Any] = {"jobs": [agreed_job(**drawn)], "noise": noise, "limits": "", "row_buckets": "[]"}
    return terms(**given | changed)


def terms(**changed: Any) -> dict[str, Any]:
    """What ``charters.text`` takes for their charter."""
    given: dict[str, Any] = {
        "jobs": [agreed_job()],
        "row_buckets": "[20]",
        "first_model": f'"{Tensors(PARTS).name_of(START).hex()}"',
        "limits": chains.LOSS,
        "interactive": "false",
    }
    return given | changed


def job(agreed: Charter, **changed: Any) -> Job:
    return make_job(agreed, **{"plan": PLAN, "parts": PARTS, "constants": ()} | changed)


def salts() -> Any:
    """Salts that are never the same, and the same in each run."""
    numbers = iter(range(1 << 30))
    return lambda: chains.digest("salt", next(numbers))


def owner(
    name: str = "bob",
    *,
    agreed: Charter | None = None,
    notes: Records | None = None,
    floors: Floors | None = None,
    data: dict[str, frozenset[str]] | None = None,
    verify_instance: Any = None,
    content: Callable[[str], bytes] | None = None,
    **unsafe: Any,
) -> Member:
    return Member(
        charter=agreed or charter(),
        own=name,
        key=charters.key_of(name),
        floors=floors,
        data={"#mri": frozenset({"#mri"})} if data is None else data,
        records=notes or Records(None),
        verify_instance=verify_instance or (lambda instance: None),
        new_salt=salts(),
        content=content or (lambda name: bytes(32)),
        **unsafe,
    )


def only(effects: Sequence[Effect], kind: type) -> Any:
    """The one effect of this kind, or the one message."""
    found = [each for each in effects if isinstance(each, kind)]
    found += [each.message for each in effects if isinstance(each, Say) and isinstance(each.message, kind)]
    assert len(found) == 1, effects
    return found[0]


def declined(effects: Sequence[Effect]) -> str:
    """Why the owner declines; nothing else but a note for its log comes of it."""
    assert all(isinstance(each, Note | Say) for each in effects), effects
    text: str = only(effects, w.Declined).text
    return text


@dataclass
class Aggregator:
    """What an aggregator knows, and all that it may say to the owner ``member``. Its instance has begun."""

    member: Member
    job: Job
    ledger: Ledger
    instance: Instance = field(default_factory=lambda: Instance("first"))
    model: bytes = START

    @classmethod
    def facing(
        cls,
        member: Member,
        *,
        at: Ledger | None = None,
        instance: str = "first",
        model: bytes = START,
        **changed: Any,
    ) -> Aggregator:
        """One that is connected, has handed over its chain and the model, and has shown the job."""
        ledger = at or Ledger(member.charter)
        here = cls(member, job(member.charter, **changed), ledger, Instance(instance), model)
        ledger.append(here.instance.begin(ledger))
        joined = only(here.connect(), w.Join)
        assert not leaves(here.chain(after=joined.sequence, model=here.model)), "the chain is not taken"
        here.show()
        return here

    @property
    def encoded(self) -> bytes:
        return jobs.encode(self.job)

    def connect(self) -> list[Effect]:
        return self.member.connected(self.instance.transcript(self.ledger))

    def show(self) -> list[Effect]:
        return self.member.handle(w.Work(job_digest(self.encoded)), self.encoded)

    def chain(self, *, after: int, model: bytes = b"") -> list[Effect]:
        new = self.ledger.since(after)
        message = w.Chain(after + 1, tuple(map(len, new)), len(model))
        return self.member.handle(message, b"".join((*new, model)))

    def proposal(self, number: int = 1, **changed: Any) -> w.Propose:
        given: dict[str, Any] = {
            "round": number,
            "job": job_digest(self.encoded),
            "model": self.ledger.model,
            "sequence": self.ledger.sequence,
            "head": self.ledger.head,
            "digest": None,
            "seconds": 60.0,
        } | changed
        if given["digest"] is None:
            given["digest"] = round_digest(
                given["job"],
                charter=self.ledger.charter.digest,
                number=number,
                model=given["model"],
                head=given["head"],
            )
        return w.Propose(**given)

    def prove(self, **changed: Any) -> list[Effect]:
        """Answers the challenge that is open."""
        return self.member.proved(self.instance.transcript(self.ledger, **changed))

    def propose(self, number: int = 1, **changed: Any) -> Train:
        """Has the owner train."""
        only(self.member.handle(self.proposal(number, **changed)), Prove)
        trained: Train = only(self.prove(), Train)
        return trained

    def contribute(self, number: int = 1, *, vector: bytes = UPDATE, examples: int = 23) -> w.Ready:
        """Has the owner train, and do so."""
        self.propose(number)
        effects = self.member.trained(
            number, vector, examples=examples, norms=NORMS, metrics={"loss": 0.5, "secret": 1.0}
        )
        ready: w.Ready = only(effects, w.Ready)
        return ready

    def cohort(self, number: int = 1, names: Sequence[str] = OWNERS, **changed: Any) -> Cohort:
        """What they are to sign; ``bob``'s commitment is what its records say, the others' is made up."""
        taken = self.member._records.took_part(self.ledger.charter.digest).get(number)
        shares = [
            Share(
                charters.fingerprint_of(name),
                1 / len(names),
                taken.commitment if taken and name == self.member.own else chains.digest(name, number),
            )
            for name in names
        ]
        given: dict[str, Any] = {
            "round": number,
            "job": job_digest(self.encoded),
            "name": self.job.name,
            "shares": tuple(sorted(shares, key=lambda share: share.member)),
            "signer": self.instance.public,
            "noise": self._noise(),
        }
        return chains.cohort(self.ledger, names, **given | changed)

    @property
    def outcome(self) -> bytes:
        """The commitment to what the next round releases."""
        return outcome_digest(bytes(32), model=self._next()[0], state=None, metrics={})

    def answers(self, number: int, names: Sequence[str] = OWNERS, *, committed: Sequence[Committed] = ()) -> w.Answers:
        """What these owners answer to a round."""
        newest, told = self.ledger.settled(), []
        for name in names:
            answer = Answer(
                format="cloister answer 1",
                charter=self.ledger.charter.digest,
                round=number,
                sequence=newest.sequence,
                head=newest.head,
                committed=tuple(committed),
            )
            told.append(answers.sign(answer, key=charters.key_of(name)))
        return w.Answers(number, tuple(told))

    def draft(self, cohort: Cohort) -> list[Effect]:
        """Asks for the consent to a cohort, and proves itself if that is asked for."""
        return self._ask(w.Draft(cohort.round, records.encode(cohort)))

    def ask(self, cohort: Cohort, *, consents: Sequence[w.MemberSignature] | None = None) -> list[Effect]:
        """Asks for the commit of a cohort, to which all its members have consented, likewise."""
        encoded = records.encode(cohort)
        if consents is None:
            names = {charters.fingerprint_of(each.name): each.name for each in self.ledger.charter.owners}
            consents = chains.consents(encoded, [names[share.member] for share in cohort.shares])
        return self._ask(w.Settle(cohort.round, encoded, self.outcome, tuple(consents)))

    def _ask(self, message: w.Draft | w.Settle) -> list[Effect]:
        effects = self.member.handle(message)
        return self.prove() if any(isinstance(each, Prove) for each in effects) else effects

    def consent(self, number: int = 1, names: Sequence[str] = OWNERS, **changed: Any) -> w.Consent:
        consent: w.Consent = only(self.draft(self.cohort(number, names, **changed)), w.Consent)
        return consent

    def commit(self, number: int = 1, names: Sequence[str] = OWNERS, **changed: Any) -> w.Commit:
        commit: w.Commit = only(self.ask(self.cohort(number, names, **changed)), w.Commit)
        return commit

    def release(self, number: int = 1, names: Sequence[str] = OWNERS) -> list[Effect]:
        """Releases what was signed, and hands the record over with the new model."""
        digest, model = self._next()
        record = chains.round_record(
            self.ledger,
            names,
            instance=self.instance,
            agreed=self.cohort(number, names),
            salt=bytes(32),
            model=digest,
            metrics={},
        )
        before = self.ledger.sequence
        self.ledger.append(record)
        self.model = model
        return self.chain(after=before, model=model)

    def round(self, number: int = 1, names: Sequence[str] = OWNERS) -> None:
        """A whole round."""
        self.contribute(number)
        if self.member.own in names:
            self.consent(number, names)
        self.commit(number, names)
        assert not leaves(self.release(number, names))

    def _noise(self) -> Noised | None:
        """What the charter adds to the job's rounds."""
        charter = self.ledger.charter
        agreed = charter.job(self.job.name)
        return None if agreed is None else noise_of(charter.limits, agreed)

    def _next(self) -> tuple[bytes, bytes]:
        model = (np.frombuffer(self.model, np.float32) + np.float32(1)).tobytes()
        return jobs.model_digest(self.job, model), model


def leaves(effects: Sequence[Effect]) -> str:
    """Why the owner ends the connection; empty where it does not."""
    return next((each.text for each in effects if isinstance(each, Leave)), "")


def changed(message: Any, **fields: Any) -> Any:
    return msgspec.structs.replace(message, **fields)
