"""The demonstration's data: scikit-learn's breast-cancer set, split unevenly among three hospitals.

569 patients, 30 measurements of cell nuclei each, benign or malignant (Wolberg, Street and Mangasarian, 1995, UCI
Machine Learning Repository). A fifth of them is held out for judging; the rest is split by size *and* by diagnosis, as
it is between a screening centre, a general hospital and a small oncology ward, so that no hospital sees what all of
them see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from cloister.charter.owner_limits import PrivacyBudget
from cloister.errors import MissingDependencyError
from cloister.testing.studies import LocalColumns

TAG: Final = "#breast-cancer"
SHARES: Final = {"north": (0.80, 0.04), "harbour": (0.15, 0.16), "hill": (0.05, 0.80)}
"""For each hospital: its share of the benign and of the malignant patients."""


@dataclass(frozen=True)
class Patients:
    """Measurements ``(patients, 30)`` and diagnoses ``(patients, 1)``, 1 for malignant, both float32.

    A measurement is -1.2 at the bottom of its range and 2.8 at the top.
    """

    x: torch.Tensor
    y: torch.Tensor

    def __len__(self) -> int:
        return len(self.x)


def load() -> Patients:
    """All patients.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_breast_cancer
    except ImportError:
        raise MissingDependencyError(
            "the demonstration needs scikit-learn's data set: pip install 'cloister[torch,demo]'"
        ) from None
    data = load_breast_cancer()
    malignant = (data.target == 0).astype(np.float32)  # scikit-learn's 0 is malignant
    return Patients(_scaled(data.data), torch.from_numpy(malignant).reshape(-1, 1))


def split(patients: Patients, *, seed: int = 0) -> tuple[dict[str, Patients], Patients]:
    """Each hospital's patients, and those held out for judging."""
    generator = torch.Generator().manual_seed(seed)
    own: dict[str, list[torch.Tensor]] = {name: [] for name in SHARES}
    held_out: list[torch.Tensor] = []
    for diagnosis in (0, 1):
        rows = torch.nonzero(patients.y[:, 0] == diagnosis)[:, 0]
        rows = rows[torch.randperm(len(rows), generator=generator)]
        fifth = len(rows) // 5
        held_out.append(rows[:fifth])
        rest = rows[fifth:]
        start = 0.0
        for name, shares in SHARES.items():
            end = start + shares[diagnosis]
            own[name].append(rest[round(start * len(rest)) : round(end * len(rest))])
            start = end

    def take(parts: list[torch.Tensor]) -> Patients:
        rows = torch.cat(parts)
        rows = rows[torch.randperm(len(rows), generator=generator)]
        return Patients(patients.x[rows], patients.y[rows])

    return {name: take(parts) for name, parts in own.items()}, take(held_out)


def pool(parts: Mapping[str, Patients]) -> Patients:
    """Everyone's patients in one place."""
    columns = [(part.x, part.y) for part in parts.values()]
    x, y = (torch.cat(column) for column in zip(*columns, strict=True))
    return Patients(x, y)


def write(folder: Path, name: str, patients: Patients, *, budget: PrivacyBudget | None = None) -> list[LocalColumns]:
    """A hospital's file, and what its node's configuration says of it: also what its rounds may cost each patient."""
    file = folder / f"{name}.npz"
    np.savez(file, x=patients.x.numpy(), y=patients.y.numpy())
    return [LocalColumns(file, ("x", "y"), (TAG,), budget)]


def _scaled(x: np.ndarray) -> torch.Tensor:
    low, high = x.min(0), x.max(0)  # as the data set's description gives them
    return torch.from_numpy((4 * ((x - low) / (high - low) - 0.3)).astype(np.float32))
