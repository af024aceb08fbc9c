"""The demonstration's data: real, split for good, and unevenly."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from cloister.demo import hospitals
from cloister.demo.hospitals import SHARES, Patients
from cloister.errors import MissingDependencyError


@pytest.fixture(scope="module")
def everyone() -> Patients:
    return hospitals.load()


def rows(patients: Patients) -> Counter[tuple[float, ...]]:
    return Counter(map(tuple, torch.cat([patients.x, patients.y], 1).tolist()))


@pytest.mark.slow
def test_all_patients_are_there(everyone: Patients) -> None:
    assert everyone.x.shape == (569, 30)
    assert everyone.y.shape == (569, 1)
    assert everyone.x.dtype is everyone.y.dtype is torch.float32
    assert int(everyone.y.sum()) == 212  # malignant, as the data set's description says
    assert len(everyone) == 569


@pytest.mark.slow
def test_nobody_is_split_twice_or_lost(everyone: Patients) -> None:
    parts, held_out = hospitals.split(everyone)
    assert sum(map(rows, (*parts.values(), held_out)), Counter()) == rows(everyone)
    assert len(rows(everyone)) == 569  # and no two patients are alike


@pytest.mark.slow
def test_the_split_is_the_same_each_time_and_for_each_seed_another(everyone: Patients) -> None:
    first, again = hospitals.split(everyone), hospitals.split(everyone)
    assert all(torch.equal(first[0][name].x, again[0][name].x) for name in SHARES)
    assert torch.equal(first[1].x, again[1].x)
    assert not torch.equal(first[1].x, hospitals.split(everyone, seed=1)[1].x)


@pytest.mark.slow
def test_the_split_takes_nothing_from_the_callers_generator(everyone: Patients) -> None:
    before = torch.get_rng_state()
    hospitals.split(everyone)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_split_is_uneven_in_size_and_in_diagnosis(everyone: Patients) -> None:
    parts, held_out = hospitals.split(everyone)
    sizes = [len(part) for part in parts.values()]
    malignant = [float(part.y.mean()) for part in parts.values()]
    assert max(sizes) > 3 * min(sizes)
    assert max(malignant) > 0.8
    assert min(malignant) < 0.1
    assert float(held_out.y.mean()) == pytest.approx(float(everyone.y.mean()), abs=0.01)


def test_shares_are_of_the_whole() -> None:
    for diagnosis in (0, 1):
        assert sum(shares[diagnosis] for shares in SHARES.values()) == pytest.approx(1)


def test_measurements_are_placed_in_their_ranges(everyone: Patients) -> None:
    for edge, place in ((everyone.x.min(0).values, -1.2), (everyone.x.max(0).values, 2.8)):
        assert torch.allclose(edge, torch.full((30,), place), atol=1e-6)


def test_pooled_patients_are_everyones(everyone: Patients) -> None:
    parts, held_out = hospitals.split(everyone)
    assert rows(hospitals.pool({**parts, "held out": held_out})) == rows(everyone)


def test_a_hospitals_file_and_what_its_node_is_told_of_it(everyone: Patients, tmp_path: Path) -> None:
    (columns,) = hospitals.write(tmp_path, "north", everyone)
    assert (columns.columns, columns.tags) == (("x", "y"), (hospitals.TAG,))
    with np.load(columns.file, allow_pickle=False) as archive:
        assert np.array_equal(archive["x"], everyone.x.numpy())
        assert np.array_equal(archive["y"], everyone.y.numpy())


def test_without_scikit_learn_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'cloister\[torch,demo\]'"):
        hospitals.load()
