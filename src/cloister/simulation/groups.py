"""Groups of a simulation's owners that train together: equally many rows each, as many owners as memory allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cloister.errors import PlanError
from cloister.worker.batched_training import TrainingTogether
from cloister.worker.data.batches import Batches
from cloister.worker.data.rows import Arrays

_BYTES: Final = 1 << 24
"""The memory of a group, in bytes, so that memory does not grow with the number of owners."""
LARGEST: Final = 1 << 20
"""An owner who takes more bytes than this trains alone: the gain for each operation is small there, and convolutions
with a kernel for each model take longer than one by one."""
_FEWEST: Final = 4
"""Fewer owners than these train faster one by one."""


class Groups:
    """The owners of a simulation by their numbers of rows. ``make`` prepares the training of owners with so many."""

    def __init__(
        self, data: Mapping[str, Batches], *, make: Callable[[int], TrainingTogether], vectorise: bool
    ) -> None:
        self._make, self._vectorise = make, vectorise
        self._rows = {name: len(each) for name, each in data.items() if type(each) is Arrays}
        self._made: dict[int, TrainingTogether | str] = {}

    def of(self, names: Sequence[str]) -> tuple[list[tuple[TrainingTogether, list[str]]], dict[str, str]]:
        """Groups these owners, in the order of ``names``; and gives the reason why each of the others trains alone."""
        if not self._vectorise:
            return [], dict.fromkeys(names, "vectorise is False")
        equal: dict[int, list[str]] = {}
        alone: dict[str, str] = {}
        for name in names:
            if name in self._rows:
                equal.setdefault(self._rows[name], []).append(name)
            else:
                alone[name] = "the rows of their data sets cannot be read in any order"
        groups: list[tuple[TrainingTogether, list[str]]] = []
        for rows, members in equal.items():
            training = self._training(rows) if len(members) >= _FEWEST else f"fewer than {_FEWEST} have as many rows"
            if isinstance(training, str):
                alone.update(dict.fromkeys(members, training))
                continue
            size = _BYTES // training.bytes_each
            groups += [(training, members[start : start + size]) for start in range(0, len(members), size)]
        return groups, alone

    def _training(self, rows: int) -> TrainingTogether | str:
        """The training of owners with so many rows together, or the reason why there is none."""
        found = self._made.get(rows)
        if found is None:
            try:
                found = self._make(rows)
            except PlanError as fault:
                found = str(fault)
            self._made[rows] = found
        return found
