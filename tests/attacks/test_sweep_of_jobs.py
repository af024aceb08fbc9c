"""Attack: of all jobs that a charter can have, the one whose mean is one owner's row, or one owner's update.

There are numbers enough within the bounds. These try the ends of all of them, on models as PyTorch draws them and on
trained ones. What comes out although all rules are kept stands here too, with figures: noise is what will answer it,
and then these turn round. ``make sweep`` looks for longer, and prints the figures of the threat model.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from cloister.wire.optimizers import SGD, CosineDecay
from cloister.wire.strategies import FedAvg, FedProx, Strategy
from tests.attacks import sweep
from tests.attacks.sweep import FAMILIES, LIKE, READ
from tests.support.chains import PLAN
from tests.support.charters import agreed_job

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
    """Where enough rows of each owner count, which no bound asks for yet: below is what comes of fewer."""
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
    """A rate that falls to a tenth within two steps is within the bounds, and makes a round of one step."""

    def error(optimizer: SGD) -> float:
        here = sweep.setting(sweep.trained("MLP, 256 wide"), sweep.dealt(3))
        wanted = sweep.job(here, batch_size=32, steps=2, optimizer=optimizer)
        return min(sweep.row_error([sweep.release(here, wanted, seed=seed)]) for seed in range(20))

    assert error(SGD(0.1, schedule=CosineDecay(1, 0.011))) < READ


def test_the_rows_that_count_are_those_of_the_steps_that_do() -> None:
    def rows(optimizer: SGD, *, strategy: Strategy | None = None, steps: int = 2) -> float:
        wanted = agreed_job(PLAN, batch_size=64, steps=steps, optimizer=optimizer, strategy=strategy or FedAvg())
        return sweep.rows_that_count(wanted)

    assert rows(SGD(0.1)) == rows(SGD(0.1), steps=1) * 2 == 128
    assert rows(SGD(1.0, schedule=CosineDecay(1, 0.1))) == pytest.approx(64 * 1.1**2 / 1.01)
    assert rows(SGD(1.0, momentum=0.5)) == pytest.approx(64 * 2.5**2 / (1.5**2 + 1))
    assert rows(SGD(1.0, momentum=0.01, dampening=0.9)) == pytest.approx(64 * 1.11**2 / (1.01**2 + 0.1**2))
    assert rows(SGD(0.1), strategy=FedProx(mu=9.0)) == pytest.approx(64 * 1.1**2 / 1.01)


@pytest.mark.slow
def test_rare_units_above_convolutions_give_what_they_saw_of_a_row() -> None:
    found = sweep.rows_in_rounds("CNN", inputs="raw", fitted=False, batch_size=32, steps=1, rounds=10)
    assert 0.3 < found < 10


def test_an_embedding_gives_all_words_of_a_round_and_an_owners_own_change_to_those_that_it_alone_has() -> None:
    told = sweep.words_told()
    assert told.found == told.right == 1
    assert told.cosine > 0.999


def test_the_last_biases_give_the_shares_of_the_labels() -> None:
    assert sweep.label_error(steps=4) < 3  # points


@pytest.mark.slow
def test_with_adam_a_mean_gives_signs_of_all_owners() -> None:
    signs = sweep.adam_signs(fitted=False)
    assert signs.certain > 0.3
    assert signs.right > 0.9
    assert 0.6 < sweep.adam_signs(fitted=True).alike < 0.9  # of one owner: a coin has a half
