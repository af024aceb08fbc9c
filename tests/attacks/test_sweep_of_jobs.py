"""Attack: of all jobs that a charter can have, the one whose mean is one owner's row, or one owner's update.

There are numbers enough within the bounds. These try the ends of all of them, on models as PyTorch draws them and on
trained ones. What comes out although all rules are kept stands here too, with figures: noise is what will answer it,
and then these turn round. ``make sweep`` looks for longer, and prints the figures of the threat model.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from cloister.errors import CharterError
from cloister.wire.optimizers import SGD, CosineDecay
from tests.attacks import sweep
from tests.attacks.sweep import FAMILIES, LIKE, READ
from tests.support import owners

DENSE = ("MLP, 16 wide", "MLP, 256 wide", "MLP with BatchNorm", "MLP after BatchNorm")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# What no numbers within the bounds bring


@pytest.mark.slow
@pytest.mark.parametrize("fitted", [False, True], ids=["first", "trained"])
@pytest.mark.parametrize("kind", DENSE)
def test_no_job_reads_a_row_of_centred_columns(kind: str, *, fitted: bool) -> None:
    """Where as many rows of each owner count as a charter asks for by itself: below is what comes of fewer."""
    errors = {family: sweep.searched(kind, family, fitted=fitted).row for family in FAMILIES}
    assert min(errors.values()) > READ, errors


@pytest.mark.slow
@pytest.mark.parametrize("kind", sweep.KINDS)
def test_no_job_has_an_owners_update_on_a_trained_model(kind: str) -> None:
    """On a first model all owners' updates are alike, so that each of them is like the mean."""
    cosines = {family: sweep.searched(kind, family, fitted=True).owner for family in FAMILIES}
    assert max(cosines.values()) < LIKE, cosines


@pytest.mark.slow
def test_a_normalisation_of_the_inputs_centres_them() -> None:
    """Pictures as they are, most of whose values are 0: below, where there is none, they come out."""
    errors = {
        family: sweep.searched("MLP after BatchNorm", family, fitted=False, inputs="raw").row for family in FAMILIES
    }
    assert min(errors.values()) > READ, errors


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["MLP, 16 wide", "MLP, 256 wide"])
def test_a_row_that_does_not_fit_is_no_more_of_a_mean_than_another_owner(kind: str) -> None:
    with_a_misfit = sweep.with_a_misfit(kind)
    cosine, rows = sweep.misfit(with_a_misfit, level=True)
    assert 0.5 < cosine < 0.75
    assert not rows
    assert sweep.misfit(with_a_misfit, level=False)[0] > 0.98  # in a plain mean


@pytest.mark.slow
def test_in_a_plain_mean_a_wide_model_gives_the_row_that_does_not_fit() -> None:
    assert sweep.misfit(sweep.with_a_misfit("MLP, 256 wide"), level=False)[1] == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["MLP, 16 wide", "MLP, 256 wide"])
def test_an_owner_whose_labels_are_wrong_is_no_more_of_a_mean_than_another(kind: str) -> None:
    wrong = sweep.with_wrong_labels(kind)
    assert 0.5 < sweep.misfit(wrong, level=True)[0] < 0.75
    assert sweep.misfit(wrong, level=False)[0] > 0.98


# What honest means tell all the same


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "steps", "least"), [(32, 1, 1.0), (64, 2, 0.4)])
def test_a_wide_first_layer_gives_rows_of_columns_that_are_not_centred(
    batch_size: int, steps: int, least: float
) -> None:
    """Many of its units are silent for almost all pictures; one that is active for one row alone has that row."""
    found = sweep.rows_in_rounds("MLP, 256 wide", inputs="raw", fitted=False, batch_size=batch_size, steps=steps)
    assert least <= found < 12


@pytest.mark.slow
def test_one_step_on_a_trained_model_gives_rows_that_it_does_not_fit() -> None:
    def rows(batch_size: int, steps: int) -> float:
        return sweep.rows_in_rounds(
            "MLP, 256 wide", inputs="centred", fitted=True, batch_size=batch_size, steps=steps, rounds=10
        )

    assert 0.1 <= rows(32, 1) < 5
    assert not rows(32, 4)


@pytest.mark.slow
def test_numbers_that_make_one_step_count_give_such_rows_too() -> None:
    """A rate that falls to a tenth within two steps makes a round of one step, which ``min_rows`` does not allow."""

    def error(optimizer: SGD) -> float:
        here = sweep.setting(sweep.trained("MLP, 256 wide"), sweep.dealt(3))
        wanted = sweep.job(here, batch_size=32, steps=2, optimizer=optimizer)
        return min(sweep.row_error([sweep.release(here, wanted, seed=seed)]) for seed in range(20))

    falling = SGD(0.1, schedule=CosineDecay(1, 0.011))
    assert error(falling) < READ
    few = r"in which 39 rows of an owner count, and at least min_rows, 96, must"
    with pytest.raises(CharterError, match=few):
        owners.agree(job={"optimizer": falling, "batch_size": 32, "steps": 2}, min_rows="96")
