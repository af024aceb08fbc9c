"""Traps: what published attacks make is found, also where it hides; honest models, first and trained, raise nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cloister.models import layers
from cloister.models.drawing import draw
from cloister.models.recipe import Drawn
from cloister.models.traps import Trap, find
from tests.first_model.honest import FIRST, trained, values_of
from tests.first_model.trapped import HIDDEN, PUBLISHED, imprint, in_other_columns, noisy, scaled, split

SEEDS = range(3)
HIDING = [name for name in PUBLISHED if name.startswith(("imprint", "one-shot", "trap weights", "quantile"))]
LONG = ["MLP", "CNN", "LoRA", "LayerNorm and a zero head", "class priors on zeros", "logistic regression from zero"]


def kinds(found: list[Trap]) -> set[str]:
    return {trap.kind for trap in found}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_trap_is_found(name: str) -> None:
    make, kind = PUBLISHED[name]
    for seed in SEEDS:
        found = find(make(np.random.default_rng(seed)))
        assert kind in kinds(found)
        assert [trap.severity for trap in found] == sorted(trap.severity for trap in found)


@pytest.mark.slow
@pytest.mark.parametrize("hide", HIDDEN)
@pytest.mark.parametrize("name", HIDING)
def test_it_is_found_where_it_hides(name: str, hide: str) -> None:
    make, kind = PUBLISHED[name]
    for seed in SEEDS:
        generator = np.random.default_rng(seed)
        assert kind in kinds(find(HIDDEN[hide](make(generator), generator)))


@pytest.mark.parametrize("between", [64, 196, 256, 400])
def test_an_imprint_in_two_layers_is_found(between: int) -> None:
    assert "imprint" in kinds(find(split(np.random.default_rng(0), between=between)))


@pytest.mark.parametrize("part", [0.3, 0.5, 0.8])
def test_an_imprint_in_some_columns_is_found_unless_its_rows_are_scaled(part: float) -> None:
    generator = np.random.default_rng(0)
    model = in_other_columns(generator, part=part)
    assert "columns" in kinds(find(model))
    assert "columns" in kinds(find(noisy(model, generator)))
    assert "columns" not in kinds(find(scaled(model, generator)))  # a hole, which the module names


def test_an_imprint_in_a_large_layer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "SAMPLED_ROWS", 64)
    monkeypatch.setattr(layers, "SAMPLED_COLUMNS", 64)
    generator = np.random.default_rng(0)
    model = HIDDEN["all at once"](imprint(generator, measure="random", bins=1000), generator)
    assert "imprint" in kinds(find(model))


@pytest.mark.parametrize(
    ("weight", "bias", "kind"),
    [
        ({"draw": "constant", "value": 0.01}, {"draw": "uniform", "low": -2.0, "high": 2.0}, "imprint"),
        ({"draw": "uniform", "low": 0.09, "high": 0.1}, {"draw": "uniform", "low": -2.0, "high": 2.0}, "imprint"),
        ({"draw": "uniform", "low": -0.1, "high": 0.1}, {"draw": "constant", "value": -2.0}, "silent"),
        ({"draw": "uniform", "low": -0.1, "high": 0.1}, {"draw": "constant", "value": -100.0}, "bias"),
        (
            {"draw": "normal", "mean": -0.04, "std": 0.125, "low": -1.0, "high": 1.0},
            {"draw": "uniform", "low": -0.1, "high": 0.1},
            "leaning",
        ),
        (
            {"draw": "normal", "mean": -0.012, "std": 0.1, "low": -1.0, "high": 1.0},
            {"draw": "constant", "value": 0.0},
            "leaning",
        ),
        (
            {"draw": "normal", "mean": 0.0, "std": 0.1, "low": -1.0, "high": 1.0},
            {"draw": "uniform", "low": -0.75, "high": -0.65},
            "leaning",
        ),
        (
            {"draw": "normal", "mean": -0.03, "std": 0.1, "low": -1.0, "high": 1.0},
            {"draw": "uniform", "low": -0.4, "high": -0.3},
            "leaning",
        ),
        (
            {"draw": "normal", "mean": 0.0, "std": 0.1, "low": -1.0, "high": 1.0},
            {"draw": "constant", "value": -0.25},
            "leaning",
        ),
    ],
)
def test_a_trap_that_a_recipe_draws_is_found(weight: dict[str, Any], bias: dict[str, Any], kind: str) -> None:
    recipe = (
        Drawn(tensor="0.bias", dtype="float32", shape=(64,), **bias),
        Drawn(tensor="0.weight", dtype="float32", shape=(64, 100), **weight),
    )
    assert kind in kinds(find(draw(recipe, digest=bytes(32))))


def test_units_that_lean_are_told_with_what_they_do() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(-0.04, 0.125, size=(256, 64))
    (trap,) = find({"0.weight": rows, "0.bias": generator.uniform(-0.1, 0.1, size=256)})
    assert (trap.tensor, trap.kind, trap.severity) == ("0.weight", "leaning", "odd")
    assert "columns from 0 to 1 seldom set them off" in trap.text
    assert find({"0.weight": rows})[0].kind == "leaning"  # without biases too
    assert find({"0.weight": -rows}) == []  # units that always fire hide rows
    few = generator.normal(-0.04, 0.125, size=(256, 8))
    assert find({"0.weight": few}) == []


@pytest.mark.parametrize("units", [16, 64, 2048])
@pytest.mark.parametrize("inputs", [16, 64, pytest.param(1000, marks=pytest.mark.slow)])
def test_honest_draws_do_not_lean(units: int, inputs: int) -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        bound = 1 / np.sqrt(inputs)
        rows, biases = (generator.uniform(-bound, bound, size=shape) for shape in ((units, inputs), units))
        assert find({"0.weight": rows, "0.bias": biases}) == []


def test_a_text_names_the_layer_and_what_it_could_do() -> None:
    generator = np.random.default_rng(0)
    trap = find(HIDDEN["30% of the rows"](imprint(generator, measure="random"), generator))[0]
    assert (trap.tensor, trap.kind, trap.severity) == ("0.weight", "imprint", "grave")
    assert trap.text.startswith("38 of 128 rows (30%) are alike but for their biases. ")
    assert "one row of your data" in trap.text


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"scale": np.float32(1.0).reshape(())},
        {"bias": np.zeros(4)},
        {"weight": np.zeros((0, 4))},
        {"weight": np.zeros((4, 0))},
        {"weight": np.ones((1, 4))},
        {"weight": np.zeros((64, 64)), "bias": np.zeros(3)},
        {"weight": np.full((2, 2), 1e-300), "bias": np.zeros(2)},
        {"0.weight": np.zeros((20, 20)), "1.weight": np.zeros((20, 20)), "1.bias": np.ones(20)},
    ],
    ids=str,
)
def test_what_is_small_or_empty_is_no_trap(tensors: dict[str, Any]) -> None:
    assert [trap for trap in find(tensors) if trap.kind != "tiny"] == []


def test_numbers_beyond_all_norms_are_looked_at() -> None:
    values = np.random.default_rng(0).normal(size=(32, 32))
    values[3] = 1e308
    assert "strong" in kinds(find({"weight": values, "bias": np.zeros(32)}))


def first(make: Callable[[], torch.nn.Module], seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = make()
    if any(isinstance(module, torch.nn.LazyLinear) for module in model.modules()):
        model(torch.zeros(2, 1, 8, 8))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST)
def test_an_honest_first_model_raises_nothing(name: str) -> None:
    for seed in range(5):
        assert find(values_of(first(FIRST[name], seed))) == []


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", FIRST)
def test_nor_does_one_after_a_few_steps(name: str, optimizer: str) -> None:
    model = first(FIRST[name], 0)
    for seed, steps in ((1, 1), (2, 4)):
        assert find(values_of(trained(model, steps=steps, optimizer=optimizer, seed=seed))) == []


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", LONG)
def test_nor_does_one_after_hundreds_of_steps(name: str, optimizer: str) -> None:
    assert find(values_of(trained(first(FIRST[name], 0), steps=200, optimizer=optimizer, seed=0))) == []
