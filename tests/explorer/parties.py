"""Those who talk to instances in the explorer's world: honest owners as processes that die, traitors, a researcher."""

from __future__ import annotations

import functools
import hashlib
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from cloister.charter import keys
from cloister.errors import AttestationError, CloisterError, RecordsError
from cloister.ledger.chain import Instance, Ledger
from cloister.ledger.records import cohort_to_be_signed, commitment
from cloister.node.study.entries import Entry
from cloister.node.study.journal import FILE, Records
from cloister.node.study.member import Effect, Member, Train
from cloister.wire import rounds as w
from tests.explorer.setting import LENGTH, RESEARCHER, TAG, Study, update_of
from tests.support import charters
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
    asked: dict[tuple[int, int], list[bytes]] = field(default_factory=dict)
    """The cohorts that it was ever asked to sign, by study and round; for whoever watches."""
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


class Traitor:
    """An owner on one connection who has given its key to the operator."""

    FAITHFUL: Final = 0.8
    """How often it says what an honest owner might say: else most rounds would end at once."""

    def __init__(self, name: str, study: Study, *, chains: set[tuple[bytes, ...]], chance: random.Random) -> None:
        self.name = name
        self.study = study
        self.offered: dict[bytes, np.ndarray[Any, Any]] = {}
        """What it contributed, by the commitments."""
        self._chains = chains
        """All that traitors have seen under this charter."""
        self._chance = chance
        self._key = charters.key_of(name)
        self._own = chance.randbytes(8)
        self._chain: tuple[bytes, ...] = ()

    def join(self) -> w.Join:
        """It claims to know some older chain, or none."""
        known = self._some_chain()
        ledger = Ledger.from_records(self.study.charter, known)
        self._chain = known
        return w.Join(ledger.sequence, ledger.head, self._chance.choice((0, 0, 1, 2, 7)), self._chance.random() < 0.3)

    def answer(self, message: Any, body: bytes) -> list[tuple[Any, bytes]]:
        """What it says to a message; anything at all."""
        faithful = self._chance.random() < self.FAITHFUL
        match message:
            case w.Chain():
                self._learn(message, body)
            case w.HandOver(after=after):
                found = (self._chain if faithful else self._some_chain())[after:]
                return [(w.Chain(after + 1, tuple(map(len, found))), b"".join(found))]
            case w.Propose(round=number):
                return [(self._offer(number) if faithful else w.Declined(number, "no"), b"")]
            case w.Send(round=number):
                update = self._update(number) if faithful else update_of(self.name, number + 1)
                return [(w.Contribution(number, self._salt(number)), update.tobytes())]
            case w.Sign(round=number, cohort=cohort):
                signature = keys.sign(cohort_to_be_signed(cohort), key=self._key)
                return [(w.Signature(number, keys.public_bytes(self._key), signature), b"")]
        return []

    def _some_chain(self) -> tuple[bytes, ...]:
        if not self._chains:
            return ()
        chain = self._chance.choice(sorted(self._chains))
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
        self._chains.add(self._chain)

    def _offer(self, number: int) -> w.Ready:
        committed = commitment(self._salt(number), memoryview(self._update(number).tobytes()))
        self.offered[committed] = self._update(number)
        owners = [owner.key for owner in self.study.charter.owners]
        signed = self._chance.choices(owners, k=self._chance.randint(0, len(owners)))  # what is not true, perhaps
        told = (tuple(sorted(set(signed))),) * self._chance.randint(0, 1)
        norm = norms_of(self._update(number))[0] * self._chance.choice((1.0, 1.0, 1.5))  # more than it is, perhaps
        return w.Ready(number, examples_of(self.name), norm, 0.0, {"loss": 2.0}, committed, told)

    def _update(self, number: int) -> np.ndarray[Any, Any]:
        return -update_of(self.name, number)

    def _salt(self, number: int) -> bytes:
        return hashlib.sha256(f"{self.name} {number}".encode() + self._own).digest()


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
