"""A study in memory with the real parts on both sides: the aggregator's state machine, and each owner's ``Member`` with
its records. Only training is made up, and an attack may change what anybody says on the way."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Any

import msgspec
import numpy as np

from cloister.attest.transcript import Transcript
from cloister.charter import Charter
from cloister.node.study import member as node
from cloister.node.study.journal import Records
from cloister.node.study.member import Member
from tests.support import charters
from tests.support.owners import LENGTH, Heard, Party, examples_of, key_of, norms_of, update_of
from tests.support.rounds import Instance, Study

Said = tuple[Any, bytes]
MRI = {"#mri": frozenset({"#mri"})}


class NodeOwner(Party):
    """An owner's node. ``spoil`` changes what it says, ``garble`` what it hears, ``train`` what it finds."""

    def __init__(self, name: str, charter: Charter, *, data: Mapping[str, frozenset[str]] = MRI) -> None:
        super().__init__(name, charter)
        self.records = Records(None)
        self.examples = examples_of(name)
        self.notes: list[str] = []
        self.left = ""
        self.metrics = {"loss": 0.5}
        self.norms: tuple[float, float] | None = None
        """What it declares of its contributions; None: what is so."""
        self.instance: Instance | None = None
        self.spoil: Callable[[Any, bytes], list[Said]] = lambda message, body: [(message, body)]
        self.garble: Callable[[Heard], Heard] = lambda heard: heard
        self.train: Callable[[node.Train], bytes | str] = lambda order: update_of(name, order.round).tobytes()
        self.member = Member(
            charter=charter,
            own=name,
            key=charters.key_of(name),
            floors=None,
            data=data,
            records=self.records,
            verify_instance=lambda instance: None,
            new_salt=salts(name),
            content=lambda name: bytes(32),
        )

    def begin(self, instance: Instance) -> list[Said]:
        """What it says on a new connection."""
        self.instance = instance
        return self._follow(self.member.connected(self._proof()))

    def answer(self, heard: Heard) -> list[Said]:
        heard = self.garble(heard)
        found = self._follow(self.member.handle(heard.message, heard.body))
        return [said for each in found for said in self.spoil(*each)]

    def _proof(self) -> Transcript:
        assert self.instance is not None
        return Transcript.decode(self.instance.prove(bytes(32)).transcript)

    def _follow(self, effects: Iterable[node.Effect]) -> list[Said]:
        said, left = [], deque(effects)
        while left:
            match left.popleft():
                case node.Say(message=message, bodies=bodies):
                    said.append((message, b"".join(bodies)))
                case node.Prove():
                    left.extend(self.member.proved(self._proof()))
                case node.Train() as order:
                    left.extend(self._train(order))
                case node.Note(text=text):
                    self.notes.append(text)
                case node.Leave(text=text):
                    self.left = text
                case node.Abandon():
                    pass
        return said

    def _train(self, order: node.Train) -> list[node.Effect]:
        found = self.train(order)
        if isinstance(found, str):
            return self.member.failed(order.round, found)
        norms = self.norms or norms_of(np.frombuffer(found, np.float32))
        return self.member.trained(order.round, found, examples=self.examples, norms=norms, metrics=self.metrics)


class Gathering(Study):
    """A study of such owners. ``data``: the data sets of those who have others than the one tagged ``#mri``."""

    def __init__(
        self,
        charter: Charter | None = None,
        *,
        agreed: Mapping[str, Any] | None = None,
        job: Mapping[str, Any] | None = None,
        data: Mapping[str, Mapping[str, frozenset[str]]] | None = None,
    ) -> None:
        super().__init__(charter, agreed=agreed, job=job, length=LENGTH)
        has = data or {}
        self.nodes = {name: NodeOwner(name, self.charter, data=has.get(name, MRI)) for name in self.owners}
        self.parties = {**self.nodes, "rosa": self.rosa}

    def join(self, *names: str) -> None:
        for name in names or tuple(self.parties):
            self.instance.connect(name)
            party = self.parties[name]
            for said in party.begin(self.instance) if isinstance(party, NodeOwner) else [(party.join(), b"")]:
                self.instance.say(name, *said)

    def told(self, name: str, kind: type) -> list[Any]:
        """What a member was told of this kind."""
        return [each for each in self.said[name] if isinstance(each, kind)]

    def cohorts(self) -> list[list[str]]:
        """The names in each round's cohort."""
        names = {key_of(name): name for name in self.owners}
        return [sorted(names[key] for key in receipt.members) for receipt in self.instance.ledger.receipts]

    def check(self, *cohorts: Iterable[str]) -> None:
        """What was released is the mean of these cohorts, to the last bit."""
        expected = [sorted(each) for each in cohorts]
        numbers = [receipt.cohort.round for receipt in self.instance.ledger.receipts]
        assert self.cohorts() == expected
        assert self.model.tobytes() == self.expected(*expected, numbers=numbers).tobytes()


def salts(name: str) -> Callable[[], bytes]:
    """Salts that are never the same, and the same in each run."""
    numbers = count()
    return lambda: hashlib.sha256(f"{name} {next(numbers)}".encode()).digest()


def changing(kind: type, **fields: Any) -> Callable[[Any, bytes], list[Said]]:
    """Has somebody say messages of this kind with other fields."""
    return lambda message, body: [
        (msgspec.structs.replace(message, **fields) if isinstance(message, kind) else message, body)
    ]


def silent_on(kind: type) -> Callable[[Any, bytes], list[Said]]:
    """Has somebody not say messages of this kind."""
    return lambda message, body: [] if isinstance(message, kind) else [(message, body)]
