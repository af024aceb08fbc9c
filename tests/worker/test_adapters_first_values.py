"""What peft fills LoRA adapters with first, as a recipe: held against what the installed peft really does."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from peft import LoraConfig, LoraModel, get_peft_model, inject_adapter_in_model
from torch import nn

import cloister
from cloister.errors import ConfigurationError
from cloister.models.drawing import bounds, draw
from cloister.models.recipe import Drawn, Recipe
from cloister.worker.initialising import load_drawn, recipe_of


class Reader(nn.Module):
    """A base with each kind of layer that an adapter is put on."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(64, 48)
        self.hidden = nn.Linear(48, 48)
        self.local = nn.Conv1d(48, 48, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.local(self.hidden(self.words(x)).transpose(1, 2)).mean()


def adapted(**options: object) -> nn.Module:
    torch.manual_seed(0)
    wanted = {"r": 8, "target_modules": ["words", "hidden", "local"], **options}
    return get_peft_model(Reader(), LoraConfig(**wanted))


def trained(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: each for name, each in model.named_parameters() if each.requires_grad}


def assert_drawn_as(recipe: Recipe, values: dict[str, torch.Tensor]) -> None:
    assert [entry.tensor for entry in recipe] == sorted(values)
    for entry in recipe:
        _assert_alike(entry, values[entry.tensor].detach().double().numpy())


def _assert_alike(entry: Drawn, numbers: np.ndarray) -> None:
    low, high = bounds(entry)
    assert entry.shape == numbers.shape
    if entry.draw == "constant":
        assert (numbers == low).all()
        return
    assert low <= numbers.min() < numbers.max() <= high
    std = entry.std if entry.draw == "normal" else (high - low) / math.sqrt(12)
    assert abs(numbers.mean()) < 5 * std / math.sqrt(numbers.size)
    assert abs(numbers.std() / std - 1) < 5 / math.sqrt(numbers.size)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"init_lora_weights": "gaussian"},
        {"target_modules": ["hidden"], "lora_bias": True},
        {"target_modules": ["hidden"], "init_lora_weights": False},
        {"use_rslora": True},
    ],
    ids=str,
)
def test_a_recipe_says_what_peft_does(options: dict[str, object]) -> None:
    model = adapted(**options)
    values = trained(model)
    assert values
    assert_drawn_as(recipe_of(model, learned=values), values)


def test_a_is_uniform_and_b_zero() -> None:
    model = adapted(target_modules=["hidden", "words"])
    draws = {
        entry.tensor.split("base_model.model.")[1]: entry.draw for entry in recipe_of(model, learned=trained(model))
    }
    assert draws == {
        "hidden.lora_A.default.weight": "uniform",
        "hidden.lora_B.default.weight": "constant",
        "words.lora_embedding_A.default": "constant",
        "words.lora_embedding_B.default": "normal",
    }


def test_adapters_that_were_put_into_a_model_are_known() -> None:
    torch.manual_seed(0)
    model = inject_adapter_in_model(LoraConfig(r=8, target_modules=["hidden"]), Reader())
    assert not isinstance(model, LoraModel)
    values = trained(model)
    assert_drawn_as(recipe_of(model, learned=values), values)


def test_a_drawn_adapter_adds_nothing_yet() -> None:
    model = adapted(target_modules=["hidden"])
    x = torch.arange(24).reshape(2, 12)
    before = {name: each.clone() for name, each in trained(model).items()}
    with torch.no_grad():
        plain = model.get_base_model()(x)
        load_drawn(draw(recipe_of(model, learned=trained(model)), digest=bytes(32)), model)
        assert torch.equal(model(x), plain)
    changed = {name.split(".")[-3] for name, each in trained(model).items() if not torch.equal(each, before[name])}
    assert changed == {"lora_A"}


def test_a_plan_of_adapters_has_a_recipe() -> None:
    model = adapted(target_modules=["hidden"])
    plan = cloister.plan(lambda model, x: model(x)).capture(model, example=(torch.zeros(4, 12, dtype=torch.int64),))
    text = cloister.recipe_toml(model, plan)
    assert text.count("[[first_model]]") == 2
    assert "lora_A.default.weight" in text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"use_dora": True}, r"'default' begins with values that are made of the base's \(DoRA\)"),
        ({"init_lora_weights": "pissa"}, r"init_lora_weights='pissa'"),
    ],
)
def test_what_is_made_of_the_base_is_refused(options: dict[str, object], text: str) -> None:
    model = adapted(target_modules=["hidden"], **options)
    with pytest.raises(ConfigurationError, match=text):
        recipe_of(model, learned=trained(model))
