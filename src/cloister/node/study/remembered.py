"""What a node's entries come to: who was in which round, what was released of which data set, which names are one.

``cloister.node.study.journal`` keeps the entries and has them learnt, the oldest first.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import structs

from cloister.node.study.entries import (
    Began,
    Content,
    Entry,
    Kept,
    Listed,
    Named,
    Released,
    Salted,
    Signed,
    Sketched,
    TookPart,
)


@dataclass
class Known:
    """One charter's entries, by kind."""

    chain: list[bytes] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    took_part: dict[int, TookPart] = field(default_factory=dict)
    signed: dict[int, Signed] = field(default_factory=dict)
    kept: Kept | None = None


class Remembered:
    """The entries of one node, by what is asked of them."""

    def __init__(self) -> None:
        self._charters: dict[bytes, Known] = {}
        self._identity = b""
        self._own: str | None = None
        self._spent: dict[str, int] = {}
        self._salts: dict[str, bytes] = {}
        self._contents: dict[str, Content] = {}
        self._first: dict[bytes, str] = {}
        self._same: dict[str, str] = {}
        self._paths: dict[str, str] = {}
        self._listed: list[Listed] = []
        self._sketches: dict[bytes, list[Sketched]] = {}
        self._first_trainings: dict[str, TookPart] = {}
        self._trained: dict[bytes, list[TookPart]] = {}
        self._signed: dict[bytes, list[Signed]] = {}

    @property
    def charters(self) -> tuple[bytes, ...]:
        """The digests of the charters that have entries."""
        return tuple(self._charters)

    def chain(self, charter: bytes) -> tuple[bytes, ...]:
        """The ledger's records, from the first on."""
        return tuple(self._of(charter).chain)

    def released(self, charter: bytes) -> tuple[int, ...]:
        """The numbers of the rounds in the ledger."""
        return tuple(self._of(charter).released)

    def took_part(self, charter: bytes) -> dict[int, TookPart]:
        """The contributions, by round."""
        return dict(self._of(charter).took_part)

    def signed(self, charter: bytes) -> dict[int, Signed]:
        """The signatures, by round."""
        return dict(self._of(charter).signed)

    def highest(self, charter: bytes) -> int:
        """The highest round that it took part in or signed; 0 before the first. Every later one has a higher number."""
        known = self._of(charter)
        return max((0, *known.took_part, *known.signed))

    @property
    def identity(self) -> bytes:
        """The memory's own name, 32 bytes."""
        return self._identity

    @property
    def own_id(self) -> str | None:
        """The id under which charters list this organisation; None before the first."""
        return self._own

    def same(self, data: str) -> frozenset[str]:
        """The names that a data set has had: its own, and all under which a file with the same content, or in the same
        place, was seen."""
        root = self._root(data)
        return frozenset({data, *(name for name in list(self._same) if self._root(name) == root)})

    def spent(self, data: str) -> int:
        """The number of cohorts that were signed, under any charter, with a contribution from this data set in them,
        whatever it was called."""
        return sum(self._spent.get(name, 0) for name in self.same(data))

    def salt(self, data: str) -> bytes | None:
        """The secret of a data set, 32 bytes; None before it was first trained on."""
        names = self.same(data)
        return next((salt for name, salt in self._salts.items() if name in names), None)

    def content(self, data: str) -> Content | None:
        """What the data set's file was when it was looked at last."""
        return self._contents.get(data)

    def first_training(self, data: str) -> TookPart | None:
        """The first contribution from a data set; None before it."""
        return next((found for name in self.same(data) if (found := self._first_trainings.get(name))), None)

    def trained_on(self, seen: Sketched, data: str) -> tuple[TookPart, ...]:
        """The contributions from a data set, under any charter, to rounds that started from the model that was seen;
        or, under others than that charter, from one that is the same but for rounding."""
        names = self.same(data)
        return tuple(entry for each in self._like(seen) for entry in self._trained.get(each, ()) if entry.data in names)

    def on_model(self, model: bytes, *, charter: bytes) -> tuple[frozenset[str], ...]:
        """The ids of the members of each cohort that was signed for a round on a model, or on one that is the same but
        for rounding, as ``trained_on``. Nothing is known of the looks of a model that nobody here trained on."""
        seen = self._sketches.get(model)
        like = [model] if seen is None else self._like(structs.replace(seen[0], charter=charter))
        return tuple(frozenset(signed.members) for each in like for signed in self._signed.get(each, ()))

    def is_sketched(self, model: bytes, *, charter: bytes) -> bool:
        """Whether it is known what a model looked like that a round of a charter starts from."""
        return any(each.charter == charter for each in self._sketches.get(model, ()))

    def listed(self, *, id: str, key: str) -> tuple[Listed, ...]:
        """What charters said of the owner with this id, or with this key."""
        return tuple(entry for entry in self._listed if id == entry.id or key == entry.key)

    def _like(self, own: Sketched) -> list[bytes]:
        """A model, and those under other charters that it is the same as but for rounding. Within a charter's chain all
        models are the one before and a little more, which is not meant here."""
        from cloister.node.study.sketches import near  # NumPy, for the thread that takes part

        return [own.model] + [
            other
            for other, seen in list(self._sketches.items())  # of several charters, one may learn meanwhile
            if other != own.model
            and any(each.charter != own.charter and each.elements == own.elements for each in seen)
            and near(own.sketch, seen[0].sketch)
        ]

    def learn(self, entry: Entry) -> None:
        match entry:
            case Began():
                self._identity = entry.memory
            case Content():
                self._contents[entry.data] = entry
                for first in (
                    self._first.setdefault(entry.digest, entry.data),
                    self._paths.setdefault(entry.path, entry.data),
                ):
                    self._same[self._root(entry.data)] = self._root(first)
            case Named():
                self._own = self._own or entry.id
            case Listed():
                self._listed.append(entry)
            case Sketched():
                self._sketches.setdefault(entry.model, []).append(entry)
            case _:
                self._learn_of(self._charters.setdefault(entry.charter, Known()), entry)

    def _root(self, data: str) -> str:
        """One name for all that a data set has had."""
        while (other := self._same.setdefault(data, data)) != data:
            data = other
        return data

    def _learn_of(self, known: Known, entry: TookPart | Salted | Signed | Released | Kept) -> None:
        match entry:
            case TookPart():
                known.took_part[entry.round] = entry
                self._trained.setdefault(entry.model, []).append(entry)
                self._first_trainings.setdefault(entry.data, entry)
            case Salted():
                self._salts.setdefault(entry.data, entry.salt)
            case Signed():
                known.signed[entry.round] = entry
                self._signed.setdefault(entry.model, []).append(entry)
                if entry.data is not None:
                    self._spent[entry.data] = self._spent.get(entry.data, 0) + 1
            case Released():
                known.chain.append(entry.record)
                known.released += [entry.round] if entry.round else []
            case Kept():
                known.kept = entry

    def _of(self, charter: bytes) -> Known:
        return self._charters.get(charter, Known())
