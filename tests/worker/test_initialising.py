"""PyTorch's own first values as a recipe: held against the values that the installed PyTorch really fills in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cloister.errors import ConfigurationError
from cloister.models.drawing import bounds, draw
from cloister.models.recipe import Drawn
from cloister.worker.flatten import floats_of
from cloister.worker.initialising import load_drawn
from cloister.worker.initialising import recipe_of as recipe_of_some

DIGEST = bytes(32)

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Linear(40, 50),
    "Linear without bias": lambda: nn.Linear(40, 50, bias=False),
    "Bilinear": lambda: nn.Bilinear(12, 14, 16),
    "Conv1d": lambda: nn.Conv1d(6, 40, 5),
    "Conv2d": lambda: nn.Conv2d(4, 40, (3, 5)),
    "Conv2d in groups": lambda: nn.Conv2d(8, 64, 3, groups=4),
    "Conv3d": lambda: nn.Conv3d(2, 40, 3),
    "ConvTranspose1d": lambda: nn.ConvTranspose1d(40, 6, 5),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(64, 16, 3, groups=2),
    "ConvTranspose3d": lambda: nn.ConvTranspose3d(20, 4, 3),
    "Embedding": lambda: nn.Embedding(100, 20),
    "EmbeddingBag": lambda: nn.EmbeddingBag(100, 20),
    "BatchNorm1d": lambda: nn.BatchNorm1d(5),
    "BatchNorm2d": lambda: nn.BatchNorm2d(5),
    "BatchNorm2d without parameters": lambda: nn.Sequential(nn.Linear(9, 9), nn.BatchNorm2d(5, affine=False)),
    "BatchNorm2d without statistics": lambda: nn.BatchNorm2d(5, track_running_stats=False),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(5, affine=True, track_running_stats=True),
    "LayerNorm": lambda: nn.LayerNorm((3, 4)),
    "LayerNorm without bias": lambda: nn.LayerNorm(4, bias=False),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "RMSNorm": lambda: nn.RMSNorm(4),
    "PReLU": lambda: nn.PReLU(3, init=0.125),
    "RNN": lambda: nn.RNN(12, 16),
    "LSTM": lambda: nn.LSTM(12, 16, num_layers=2, bidirectional=True, proj_size=8),
    "GRU": lambda: nn.GRU(12, 16),
    "LSTMCell": lambda: nn.LSTMCell(12, 16),
    "GRUCell": lambda: nn.GRUCell(12, 16),
    "MultiheadAttention": lambda: nn.MultiheadAttention(32, 4),
    "MultiheadAttention of three": lambda: nn.MultiheadAttention(256, 4, kdim=12, vdim=20, add_bias_kv=True),
    "TransformerEncoder": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2),
    "Transformer": lambda: nn.Transformer(16, 2, 1, 1, 32, batch_first=True),
    "AdaptiveLogSoftmax": lambda: nn.AdaptiveLogSoftmaxWithLoss(16, 40, [10, 20]),
    "double": lambda: nn.Linear(40, 50).double(),
}


def recipe_of(model: nn.Module) -> tuple[Drawn, ...]:
    """The recipe of all that a model may learn."""
    return recipe_of_some(model, learned=floats_of(model))


def assert_drawn_as(entry: Drawn, values: torch.Tensor) -> None:
    """PyTorch's values lie within the recipe's bounds and near to them, and are spread alike."""
    numbers = values.detach().double().numpy()
    low, high = bounds(entry)
    if entry.draw == "constant":
        assert (numbers == low).all()
        return
    slack = np.spacing(np.float32(high))
    assert (low - slack <= numbers).all()
    assert (numbers <= high + slack).all()
    std = entry.std if entry.draw == "normal" else (high - low) / math.sqrt(12)
    assert std is not None
    assert abs(numbers.mean()) < 5 * std / math.sqrt(numbers.size)
    assert abs(numbers.std() / std - 1) < 5 / math.sqrt(numbers.size)
    if entry.draw == "uniform":  # all but one in a million draws come so near to both ends
        near = (high - low) * min(1.0, 14 / numbers.size)
        assert numbers.min() < low + near
        assert numbers.max() > high - near


@pytest.mark.parametrize("name", LAYERS)
def test_a_recipe_says_what_pytorch_does(name: str) -> None:
    torch.manual_seed(0)
    model = LAYERS[name]()
    recipe = recipe_of(model)
    held = floats_of(model)
    assert [entry.tensor for entry in recipe] == sorted(held)
    for entry in recipe:
        assert (entry.shape, f"torch.{entry.dtype}") == (tuple(held[entry.tensor].shape), str(held[entry.tensor].dtype))
        assert_drawn_as(entry, held[entry.tensor])


def test_a_drawn_model_is_loaded() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(ConfigurationError, match="layer '3' has no shape yet"):
        recipe_of(model)
    model(torch.zeros(2, 1, 8, 8))
    tensors = draw(recipe_of(model), digest=DIGEST)
    load_drawn(tensors, model)
    for name, tensor in floats_of(model).items():
        assert np.array_equal(tensor.detach().numpy(), tensors[name])
    assert model[1].num_batches_tracked.item() == 1


def test_a_model_without_values_has_a_recipe_too() -> None:
    with torch.device("meta"):
        model = nn.Linear(3, 4)
    assert recipe_of(model) == recipe_of(nn.Linear(3, 4))


def test_a_tied_weight_is_drawn_once() -> None:
    model = nn.Sequential(nn.Embedding(30, 8), nn.Linear(8, 30, bias=False))
    model[1].weight = model[0].weight
    (entry,) = recipe_of(model)
    assert (entry.tensor, entry.draw) == ("0.weight", "normal")


class Own(nn.Module):
    """A module with tensors of its own."""

    def __init__(self, *, persistent: bool) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.register_buffer("steps", torch.arange(3.0), persistent=persistent)


class OwnLinear(nn.Linear):
    """A layer that may fill its weight in another way."""


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (nn.Sequential(OwnLinear(3, 4)), "how a OwnLinear first fills '0.weight': add an entry for it by hand"),
        (Own(persistent=True), "how a Own first fills 'steps': add an entry.*persistent=False"),
        (nn.Sequential(nn.Linear(3, 4).half()), "'0.bias' is of float16"),
        (nn.Sequential(nn.Embedding(9, 4, padding_idx=0)), "embedding '0' has a row of zeros"),
        (nn.ReLU(), "must be 1 to"),
        (nn.ParameterList([nn.Parameter(torch.zeros(2))]), "how a ParameterList first fills '0'"),
    ],
)
def test_what_has_no_rule_is_named(model: nn.Module, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        recipe_of(model)


def test_what_is_computed_anew_needs_no_entry() -> None:
    assert [entry.tensor for entry in recipe_of(Own(persistent=False))] == ["inner.bias", "inner.weight"]


def test_what_is_not_learned_is_not_drawn() -> None:
    model = nn.Sequential(OwnLinear(3, 4), nn.Linear(4, 2))  # of the first there is no rule
    recipe = recipe_of_some(model, learned={"1.bias", "1.weight"})
    assert [entry.tensor for entry in recipe] == ["1.bias", "1.weight"]
    before = model[0].weight.detach().clone()
    load_drawn(draw(recipe, digest=DIGEST), model)
    assert torch.equal(model[0].weight, before)
    assert np.array_equal(model[1].bias.detach().numpy(), draw(recipe, digest=DIGEST)["1.bias"])
    with pytest.raises(ConfigurationError, match=r"first fills '0\.bias'"):
        recipe_of_some(model, learned={"0.bias", "1.bias", "1.weight"})


@pytest.mark.parametrize(
    ("other", "changed", "text"),
    [
        (nn.Linear(3, 4), {"extra": np.zeros(1)}, "'extra' is not in the model"),
        (nn.Linear(5, 4), {}, r"'weight' is drawn as torch.float32 \[4, 3\], and .* has it as torch.float32 \[4, 5\]"),
        (nn.Linear(3, 4).double(), {}, "has it as torch.float64"),
    ],
)
def test_a_model_of_another_form_stays_as_it_is(other: nn.Module, changed: dict[str, Any], text: str) -> None:
    tensors = {**draw(recipe_of(nn.Linear(3, 4)), digest=DIGEST), **changed}
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ConfigurationError, match=text):
        load_drawn({name: values for name, values in tensors.items() if values is not None}, other)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())
