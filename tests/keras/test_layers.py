"""What docs/keras.md says of Keras' layers, layer by layer; and that each comes to what a plain loop comes to."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import cloister
from cloister.worker.flatten import floats_of
from tools import keras_table as table

PAGE = Path(__file__).parents[2] / "docs" / "keras.md"
ROWS = {line.split("`")[1]: line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")}


@pytest.fixture(scope="module")
def bob() -> cloister.VirtualWorker:
    return cloister.VirtualWorker(id="bob")


def values(model: Any) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in floats_of(model).items()}


def assert_near(found: Any, expected: dict[str, Tensor]) -> None:
    """Apart by float32's rounding alone, of a few steps whose values are near 1."""
    for name, value in values(found).items():
        torch.testing.assert_close(
            value, expected[name], rtol=1e-4, atol=1e-5, msg=lambda text, at=name: f"{at}: {text}"
        )


def by_hand(case: table.Case) -> dict[str, Tensor]:
    """Two rounds of all owners' mean, in plain Keras and PyTorch."""
    model = table.build(case)
    for _ in range(2):
        start, came = values(model), []
        for at in range(table.OWNERS):
            for name, each in floats_of(model).items():
                each.data.copy_(start[name])
            table.step(model, *table.data(case, at))
            came.append(values(model))
        for name, each in floats_of(model).items():
            each.data.copy_(torch.stack([values[name] for values in came]).mean(0))
    return values(model)


def test_the_page_has_all_layers() -> None:
    assert list(ROWS) == list(table.CASES), "run python -m tools.keras_table"


@pytest.mark.slow
@pytest.mark.parametrize("name", table.CASES)
def test_a_layer_is_as_the_page_says_and_as_in_a_plain_loop(name: str, bob: cloister.VirtualWorker) -> None:
    case, found = table.CASES[name], table.outcome(name, bob)
    assert found.line == ROWS[name], "run python -m tools.keras_table"
    if case.draws:
        before = values(table.build(case))
        for trained in (found.pointers, found.run and found.run.model):
            assert trained is None or any(not torch.equal(each, before[at]) for at, each in values(trained).items())
        return
    if found.pointers is not None:
        local = table.build(case)
        table.step(local, *table.data(case, 0), steps=3)
        assert_near(found.pointers, values(local))
    if found.run is not None:
        assert_near(found.run.model, by_hand(case))


def test_the_model_of_a_simulation_is_a_copy() -> None:
    case = table.CASES["BatchNormalization"]
    model = table.build(case)
    before = copy.deepcopy(model.get_weights())
    run = cloister.simulate(
        model,
        table.loss,
        owners={"a": table.data(case, 1)},
        optimizer=cloister.SGD(lr=0.1),
        batch_size=table.ROWS,
        rounds=1,
        on_round=lambda each: None,
    )
    assert all((now == then).all() for now, then in zip(model.get_weights(), before, strict=True))
    assert type(run.model) is type(model)
    moved = dict(zip([each.name for each in run.model.weights], run.model.get_weights(), strict=True))
    assert abs(moved["moving_mean"]).max() > 0
