"""Those who talk to instances in the explorer's world: honest owners as processes that die, traitors, a researcher."""

from __future__ import annotations

import functools
import hashlib
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from cloister.errors import AttestationError, CloisterError, RecordsError
from cloister.ledger import answers
from cloister.ledger.answers import Answer, Committed
from cloister.ledger.chain import Instance, Ledger
from cloister.ledger.records import (
    cohort_digest,
    commit_to_be_signed,
    commitment,
    consent_to_be_signed,
    decode_cohort,
)
from cloister.node.study.entries import Entry
from cloister.node.study.journal import FILE, Records
from cloister.node.study.member import Effect, Member, Train
from cloister.wire import rounds as w
from tests.explorer.setting import BUCKETS, LENGTH, RESEARCHER, TAG, Study, update_of
from tests.support import charters
from tests.support.chains import sign_one
from tests.support.owners import Heard, Party, examples_of, first_model, norms_of


class Crash(BaseException):  # no error: nothing of the package may catch it
    """A process dies in the middle of what it does."""


@functools.cache
def _blank() -> bytes:
    """The file of records that a new node has: it takes time to make."""
    with tempfile.TemporaryDirectory() as folder:
        Records(Path(folder)).close()
        return (Path(folder) / FILE).read_bytes()


class Disk(Records):
    """An owner's records on a disk that may fail the next time that something is written."""

    def __init__(self, folder: Path) -> None:
        self.fault: str | None = None
        folder.mkdir(exist_ok=True)
        if not (folder / FILE).exists():
            (folder / FILE).write_bytes(_blank())
        super().__init__(folder)

    def _append(self, entries: Sequence[Entry]) -> None:
        fault, self.fault = self.fault, None
        if fault == "full":
            raise RecordsError("the node's records cannot be written: database or disk is full")
        if fault == "dies before":
            raise Crash
        super()._append(entries)
        if fault == "dies after":
            raise Crash


@dataclass
class Owner:
    """An honest owner's node: one process, its disk, and a member under each charter."""

    name: str
    folder: Path
    studies: Sequence[Study]
    verify_instance: Callable[[Instance], None]
    disk: Disk | None = None
    members: list[Member] = field(default_factory=list)
    training: dict[int, Train] = field(default_factory=dict)
    """By the study's number."""
    drafts: dict[tuple[int, int], list[bytes]] = field(default_factory=lambda: defaultdict(list))
    """The cohorts that it was ever asked to consent to, by study and round; for whoever watches."""
    settles: dict[tuple[int, int], list[tuple[bytes, bytes]]] = field(default_factory=lambda: defaultdict(list))
    """Those that it was asked to commit, with the outcome."""
    _salts: int = 0

    @property
    def alive(self) -> bool:
        return self.disk is not None

    def start(self) -> None:
        """The process starts, with what is on its disk."""
        self.disk = Disk(self.folder)
        self.members = [
            Member(
                charter=study.charter,
                own=self.name,
                key=charters.key_of(self.name),
                floors=None,
                data={TAG: frozenset({TAG})},
                records=self.disk,
                verify_instance=self.verify_instance,
                new_salt=self._salt,
                content=lambda name: bytes(32),
            )
            for study in self.studies
        ]

    def die(self) -> None:
        """All that is not on its disk is gone."""
        assert self.disk is not None
        self.disk.close()
        self.disk, self.members = None, []
        self.training.clear()

    def trained(self, study: int, *, well: bool = True) -> list[Effect]:
        """Its training has ended."""
        order = self.training.pop(study)
        member = self.members[study]
        if not well:
            return member.failed(order.round, "the training failed")
        update = update_of(self.name, order.round)
        return member.trained(
            order.round,
            update.tobytes(),
            examples=examples_of(self.name),
            norms=norms_of(update),
            metrics={"loss": 1.0},
        )

    def _salt(self) -> bytes:
        self._salts += 1
        return hashlib.sha256(f"{self.name} {self._salts}".encode()).digest()


class Researcher(Party):
    """It follows the rules, submits its job on each connection, and may forget everything."""

    def __init__(self, study: Study) -> None:
        super().__init__(RESEARCHER, study.charter)
        self.study = study
        self.submitted = False

    def join(self) -> w.Join:
        self.submitted = False
        return super().join()

    def answer(self, heard: Heard) -> list[tuple[Any, bytes]]:
        answers = super().answer(heard)
        if isinstance(heard.message, w.Chain) and not self.submitted:
            self.submitted = True
            answers.append((w.Submit(len(self.study.data)), self.study.data + first_model(LENGTH).tobytes()))
        return answers


@dataclass
class Loot:
    """What was ever said under a charter, for those who harm it: traitors, and instances that lie."""

    chains: set[tuple[bytes, ...]] = field(default_factory=set)
    """Those that traitors have seen."""
    cohorts: list[bytes] = field(default_factory=list)
    """All cohorts that anybody was asked to sign, encoded."""
    consents: dict[bytes, dict[str, w.MemberSignature]] = field(default_factory=lambda: defaultdict(dict))
    """Owners' consents, by the cohort's digest and the owner's fingerprint."""
    answers: list[w.SignedAnswer] = field(default_factory=list)
    """All answers that honest owners gave."""
    commits: dict[str, list[Committed]] = field(default_factory=lambda: defaultdict(list))
    """What traitors committed, by their names."""

    def take(self, said: Any) -> None:
        """Keeps what an honest owner says."""
        match said:
            case w.Ready(standing=standing) | w.Declined(standing=w.Standing() as standing):
                self.answers.append(standing.answer)
            case w.Consent(cohort=digest, signature=signature):
                self.consents[digest][signature.member] = signature

    def see(self, cohort: bytes) -> None:
        """Keeps a cohort that somebody was asked to sign."""
        if cohort not in self.cohorts:
            self.cohorts.append(cohort)


class Traitor:
    """An owner on one connection who has given its key to the operator."""

    def __init__(self, name: str, study: Study, *, loot: Loot, chance: random.Random) -> None:
        self.name = name
        self.study = study
        self.faithful = 0.8
        """How often it says what an honest owner might say: else most rounds would end at once."""
        self.offered: dict[bytes, np.ndarray[Any, Any]] = {}
        """What it contributed, by the commitments."""
        self._loot = loot
        self._chance = chance
        self._key = charters.key_of(name)
        self._own = chance.randbytes(8)
        self._chain: tuple[bytes, ...] = ()

    def join(self) -> w.Join:
        """It claims to know some older chain, or none."""
        known = self._some_chain() if self.faithful < 1 else ()
        ledger = Ledger.from_records(self.study.charter, known)
        self._chain = known
        return w.Join(ledger.sequence, ledger.head, self._chance.choice((0, 0, 1, 2, 7)), self._chance.random() < 0.3)

    def answer(self, message: Any, body: bytes) -> list[tuple[Any, bytes]]:
        """What it says to a message; anything at all, and often nothing."""
        faithful = self._chance.random() < self.faithful
        match message:
            case w.Chain():
                self._learn(message, body)
            case w.HandOver(after=after):
                found = (self._chain if faithful else self._some_chain())[after:]
                return [(w.Chain(after + 1, tuple(map(len, found))), b"".join(found))]
            case w.Propose(round=number):
                told = self.standing(number) if self._chance.random() < 0.5 else None
                return [(self._offer(number) if faithful else w.Declined(number, "no", told), b"")]
            case w.Send(round=number):
                update = self._update(number) if faithful else update_of(self.name, number + 1)
                return [(w.Contribution(number, self._salt(number)), update.tobytes())]
            case w.Draft(round=number, cohort=cohort):
                return self._consent(number, cohort) if faithful else self._refuse(number)
            case w.Settle(round=number, cohort=cohort, outcome=outcome):
                return self._commit(number, cohort, outcome) if faithful else self._refuse(number)
        return []

    def standing(self, number: int) -> w.Standing:
        """Its answer to a round, which is a lie."""
        chance = self._chance
        known = [
            each
            for cohort in self._loot.cohorts[-4:]
            for each in (entry_of(cohort, self.study), entry_of(cohort, self.study, chance=chance))
        ]
        listed = chance.choice(([], [], self._loot.commits[self.name][-4:], chance.sample(known, min(len(known), 2))))
        if self.faithful == 1:
            listed = known[1::2]  # the worst that it can say while it keeps to the rules otherwise
        newest = Ledger.from_records(self.study.charter, self._chain).settled()
        heads = (newest.sequence, newest.head), (0, b""), (chance.randint(0, 9), chance.randbytes(32))
        sequence, head = heads[chance.choices(range(3), (8, 1, 1))[0]]
        answer = Answer(
            format="cloister answer 1",
            charter=self.study.charter.digest,
            round=number,
            sequence=sequence,
            head=head,
            committed=tuple(listed),
        )
        owners = [owner.key for owner in self.study.charter.owners]
        agreed = tuple(sorted(set(chance.choices(owners, k=chance.randint(0, len(owners))))))  # not true, perhaps
        return w.Standing(answers.sign(answer, key=self._key), (agreed,) * chance.randint(0, 1), chance.random() < 0.5)

    def signature(self, message: bytes) -> w.MemberSignature:
        """It signs anything."""
        return sign_one(message, self._key)

    def _consent(self, number: int, cohort: bytes) -> list[tuple[Any, bytes]]:
        self._loot.see(cohort)
        signature = self.signature(consent_to_be_signed(cohort))
        return [(w.Consent(number, cohort_digest(cohort), signature), b"")]

    def _commit(self, number: int, cohort: bytes, outcome: bytes) -> list[tuple[Any, bytes]]:
        self._loot.see(cohort)
        self._loot.commits[self.name].append(entry_of(cohort, self.study))
        return [(w.Commit(number, self.signature(commit_to_be_signed(cohort, outcome))), b"")]

    def _refuse(self, number: int) -> list[tuple[Any, bytes]]:
        """Says nothing, or no, or something that is of no use."""
        other = self._chance.choice(self._loot.cohorts or [b""])
        spoilt = w.Consent(number, cohort_digest(other), self.signature(consent_to_be_signed(other)))
        useless = w.Commit(number, self.signature(commit_to_be_signed(other, bytes(32))))
        said = self._chance.choice((None, None, w.Declined(number, "no"), spoilt, useless))
        return [] if said is None else [(said, b"")]

    def _some_chain(self) -> tuple[bytes, ...]:
        if not self._loot.chains:
            return ()
        chain = self._chance.choice(sorted(self._loot.chains))
        return chain[: self._chance.choice((len(chain), self._chance.randint(0, len(chain))))]

    def _learn(self, message: w.Chain, body: bytes) -> None:
        found = list(self._chain[: max(message.first - 1, 0)])
        for size in message.records:
            found.append(body[:size])
            body = body[size:]
        try:
            Ledger.from_records(self.study.charter, found)
        except CloisterError:
            return
        self._chain = tuple(found)
        self._loot.chains.add(self._chain)

    def _offer(self, number: int) -> w.Ready:
        committed = commitment(self._salt(number), memoryview(self._update(number).tobytes()))
        self.offered[committed] = self._update(number)
        norm = norms_of(self._update(number))[0] * self._chance.choice((1.0, 1.0, 1.5))  # more than it is, perhaps
        told, rows = self.standing(number), self._chance.choice(BUCKETS)  # likewise
        return w.Ready(number, rows, norm, 0.0, {"loss": 2.0}, committed, told)

    def _update(self, number: int) -> np.ndarray[Any, Any]:
        return -update_of(self.name, number)

    def _salt(self, number: int) -> bytes:
        return hashlib.sha256(f"{self.name} {number}".encode() + self._own).digest()


def entry_of(encoded: bytes, study: Study, *, chance: random.Random | None = None) -> Committed:
    """A cohort as an answer lists it; with ``chance``, what a liar makes of it."""
    cohort = decode_cohort(encoded)
    members = [share.member for share in cohort.shares]
    if chance is not None:
        members = chance.sample([owner.key for owner in study.charter.owners], len(members))
    return Committed(cohort.round, cohort_digest(encoded), cohort.model, answers.mask(members, charter=study.charter))


def spoiled(message: Any, chance: random.Random) -> Any:
    """A traitor's message with one number in it changed."""
    numbers = [field for field in message.__struct_fields__ if type(getattr(message, field)) is int]
    if not numbers:
        return message
    name = chance.choice(numbers)
    return msgspec.structs.replace(message, **{name: max(1, getattr(message, name) + chance.choice((-1, 1, 2)))})


def no_stranger(signers: set[bytes]) -> Callable[[Instance], None]:
    """Vouches for the instances that really ran the software: no evidence of others can be made."""

    def verify_instance(instance: Instance) -> None:
        if instance.transcript.signing_key not in signers:
            raise AttestationError("no TEE has ever shown this key")

    return verify_instance
