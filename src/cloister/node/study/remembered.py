"""What a node's entries come to: who was in which round, what may have been released of which data set, which names are
one.

``cloister.node.study.journal`` keeps the entries and has them learnt, the oldest first.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import structs

from cloister.ledger.records import Noised
from cloister.node.study.entries import (
    Answered,
    Began,
    Committed,
    Consented,
    Content,
    Entry,
    Kept,
    Listed,
    Named,
    OfCharter,
    Released,
    Salted,
    Sketched,
    TookPart,
    Voided,
)


@dataclass
class Known:
    """One charter's entries, by kind."""

    chain: list[bytes] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    took_part: dict[int, TookPart] = field(default_factory=dict)
    answered: int = 0
    """The highest round that it answered without a contribution."""
    consents: dict[bytes, Consented] = field(default_factory=dict)
    """By the cohort's digest."""
    commits: dict[int, Committed] = field(default_factory=dict)
    """By round."""
    void: set[bytes] = field(default_factory=set)
    kept: Kept | None = None


class Remembered:
    """The entries of one node, by what is asked of them."""

    def __init__(self) -> None:
        self._charters: dict[bytes, Known] = {}
        self._identity = b""
        self._own: str | None = None
        self._spent: dict[str, dict[tuple[bytes, int], Noised | None]] = {}
        self._salts: dict[str, bytes] = {}
        self._contents: dict[str, Content] = {}
        self._first: dict[bytes, str] = {}
        self._same: dict[str, str] = {}
        self._paths: dict[str, str] = {}
        self._listed: list[Listed] = []
        self._sketches: dict[bytes, dict[bytes, Sketched]] = {}
        """By charter and model."""
        self._first_trainings: dict[str, TookPart] = {}
        self._trained: dict[bytes, list[TookPart]] = {}
        self._consented: dict[bytes, list[Consented]] = {}
        self._committed: dict[bytes, list[Committed]] = {}

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

    def consents(self, charter: bytes) -> tuple[Consented, ...]:
        """The cohorts that it agreed to be in, the oldest first."""
        return tuple(self._of(charter).consents.values())

    def commits(self, charter: bytes) -> dict[int, Committed]:
        """The cohorts that it committed, by round."""
        return dict(self._of(charter).commits)

    def is_void(self, charter: bytes, cohort: bytes) -> bool:
        """Whether the cohort with this digest was shown to be void."""
        return cohort in self._of(charter).void

    def highest(self, charter: bytes) -> int:
        """The highest round that it answered or committed; 0 before the first. It answers later ones alone."""
        known = self._of(charter)
        return max((known.answered, *known.took_part, *known.commits))

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

    def spent(self, data: str, *, besides: tuple[bytes, int] | None = None) -> int:
        """The number of rounds, under any charter, in which it agreed to a cohort with a contribution from this data
        set in it, whatever it was called, unless all those cohorts are void. ``besides``: a charter and a round that
        do not count."""
        return len(self.noises(data, besides=besides))

    def noises(self, data: str, *, besides: tuple[bytes, int] | None = None) -> tuple[Noised | None, ...]:
        """The noise of each of these rounds; None for one without."""
        found = {
            key: noise
            for name in self.same(data)
            for key, noise in list(self._spent.get(name, {}).items())  # other charters may add to it meanwhile
        }
        return tuple(noise for key, noise in found.items() if key != besides)

    def salt(self, data: str) -> bytes | None:
        """The secret of a data set, 32 bytes; None before it was first trained on."""
        names = self.same(data)
        return next((salt for name, salt in self._salts.items() if name in names), None)

    def content(self, data: str) -> Content | None:
        """What the data set's file was when it was looked at last."""
        return self._contents.get(data)

    def first_training(self, data: str) -> TookPart | None:
        """The first contribution from a data set that no noise hides; None before it."""
        return next((found for name in self.same(data) if (found := self._first_trainings.get(name))), None)

    def trained_on(self, seen: Sketched, data: str) -> tuple[TookPart, ...]:
        """The contributions from a data set, under any charter, to rounds that started from the model that was seen;
        or, under others than that charter, from one that is the same but for rounding."""
        names = self.same(data)
        return tuple(entry for each in self._like(seen) for entry in self._trained.get(each, ()) if entry.data in names)

    def committed_on(self, model: bytes, *, charter: bytes) -> tuple[Committed, ...]:
        """The cohorts, not void, that it committed in rounds on a model, under any charter; or, under others, on one
        that is the same but for rounding, as ``trained_on``. Nothing is known of the looks of a model that nobody here
        trained on."""
        found = (entry for like in self._models_like(model, charter) for entry in self._committed.get(like, ()))
        return tuple(entry for entry in found if not self.is_void(entry.charter, entry.cohort))

    def consented_elsewhere(self, model: bytes, *, charter: bytes) -> tuple[Consented, ...]:
        """The cohorts, not void, that it agreed to be in under other charters than this one, likewise."""
        found = (entry for like in self._models_like(model, charter) for entry in self._consented.get(like, ()))
        return tuple(
            entry for entry in found if entry.charter != charter and not self.is_void(entry.charter, entry.cohort)
        )

    def _models_like(self, model: bytes, charter: bytes) -> list[bytes]:
        # Of several charters, one may learn meanwhile, here as in what follows.
        found = (seen[model] for seen in list(self._sketches.values()) if model in seen)
        seen = next(found, None)
        return [model] if seen is None else self._like(structs.replace(seen, charter=charter))

    def is_sketched(self, model: bytes, *, charter: bytes) -> bool:
        """Whether it is known what a model looked like that a round of a charter starts from."""
        return model in self._sketches.get(charter, {})

    def listed(self, *, id: str, key: str) -> tuple[Listed, ...]:
        """What charters said of the owner with this id, or with this key."""
        return tuple(entry for entry in self._listed if id == entry.id or key == entry.key)

    def _like(self, own: Sketched) -> list[bytes]:
        """A model, and those under other charters that it is the same as but for rounding. Within a charter's chain all
        models are the one before and a little more, which is not meant here."""
        from cloister.node.study.sketches import near  # NumPy, for the thread that takes part

        elsewhere = [seen for charter, seen in list(self._sketches.items()) if charter != own.charter]
        alike = {
            other: None
            for seen in elsewhere
            for other, each in list(seen.items())
            if other != own.model and each.elements == own.elements and near(own.sketch, each.sketch)
        }
        return [own.model, *alike]

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
                self._sketches.setdefault(entry.charter, {}).setdefault(entry.model, entry)
            case _:
                self._learn_of(self._charters.setdefault(entry.charter, Known()), entry)

    def _root(self, data: str) -> str:
        """One name for all that a data set has had."""
        while (other := self._same.setdefault(data, data)) != data:
            data = other
        return data

    def _learn_of(self, known: Known, entry: OfCharter) -> None:
        match entry:
            case TookPart():
                known.took_part[entry.round] = entry
                self._trained.setdefault(entry.model, []).append(entry)
                if entry.noise is None:
                    self._first_trainings.setdefault(entry.data, entry)
            case Salted():
                self._salts.setdefault(entry.data, entry.salt)
            case Answered():
                known.answered = max(known.answered, entry.round)
            case Consented():
                known.consents[entry.cohort] = entry
                self._consented.setdefault(entry.model, []).append(entry)
                self._spent.setdefault(entry.data, {})[entry.charter, entry.round] = entry.noise
            case Committed():
                known.commits[entry.round] = entry
                self._committed.setdefault(entry.model, []).append(entry)
            case Voided():
                known.void.add(entry.cohort)
                self._free(known, entry)
            case Released():
                known.chain.append(entry.record)
                known.released += [entry.round] if entry.round else []
            case Kept():
                known.kept = entry

    def _free(self, known: Known, voided: Voided) -> None:
        """A round is not spent any more once all cohorts of it are void that were agreed to."""
        agreed = known.consents.get(voided.cohort)
        if agreed is None:
            return
        of_round = (each for each in known.consents.values() if each.round == agreed.round)
        if all(each.cohort in known.void for each in of_round):
            self._spent[agreed.data].pop((agreed.charter, agreed.round), None)

    def _of(self, charter: bytes) -> Known:
        return self._charters.get(charter, Known())
