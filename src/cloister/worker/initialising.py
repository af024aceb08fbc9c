"""PyTorch's own first values of a model, as a recipe, and a drawn model written into a module.

What ``torch.nn`` does when a layer is made, and peft when it adds LoRA adapters to one, is written down here, layer by
layer. What a model's own code does
afterwards (``nn.init`` in its ``__init__``, weights that were loaded) is not seen: whoever wants that writes it into
the recipe by hand.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, Final, NamedTuple

import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.parameter import is_lazy

from cloister.errors import ConfigurationError
from cloister.models.recipe import DTYPES, Draw, Drawn, Recipe, faults
from cloister.tensor import keras_models
from cloister.tensor.held import buffers_of
from cloister.worker.flatten import floats_of
from cloister.worker.keras_initialising import NORMAL_BOUND, source_of


class _Source(NamedTuple):
    """Where a tensor's values come from."""

    draw: Draw
    numbers: dict[str, float]


_Sources = Iterator[tuple[str, _Source]]


def recipe_of(model: nn.Module, *, learned: Container[str]) -> Recipe:
    """The recipe by which PyTorch's layers in ``model`` first fill the tensors that are ``learned``, by their names. No
    value of the model is looked at.

    Raises:
        ConfigurationError: a tensor for which there is no rule, or no such recipe; the message names it.
    """
    tensors = {name: tensor for name, tensor in floats_of(model).items() if name in learned}
    names = {id(tensor): name for name, tensor in tensors.items()}
    sources: dict[str, _Source] = {}
    # A layer's own rule comes after those of the layers in it, since that is the order in which they are made.
    for prefix, module in reversed(list(model.named_modules())):
        for name, source in _sources(module, prefix):
            owner = _tensor(module, name)
            if owner is not None and id(owner) in names:
                sources[names[id(owner)]] = source
    known = keras_models.variables_in(model)
    found = {each.name: source_of(each) for each in known if each.name in tensors}
    sources.update({name: _Source(*source) for name, source in found.items() if source is not None})
    missing = [name for name in tensors if name not in sources]
    if missing:
        raise ConfigurationError(_unknown(model, missing[0]))
    recipe = tuple(_entry(name, tensors[name], sources[name]) for name in sorted(tensors))
    for place, text in faults(recipe):
        raise ConfigurationError(f"no recipe comes of this model: {place}: {text}")
    return recipe


@torch.no_grad()
def load_drawn(tensors: Mapping[str, NDArray[Any]], model: nn.Module) -> None:
    """Writes drawn tensors into a model, in place; what is not drawn stays as it is.

    Raises:
        ConfigurationError: names, shapes or element types that the model does not have; then nothing is written.
    """
    held = floats_of(model)
    for name in sorted(tensors.keys() - held.keys()):
        raise ConfigurationError(f"the tensor {name!r} is not in the model: the recipe is for another one")
    found = {name: torch.from_numpy(values) for name, values in tensors.items()}
    for name, values in found.items():
        if (values.dtype, values.shape) != (held[name].dtype, held[name].shape):
            raise ConfigurationError(
                f"the tensor {name!r} is drawn as {values.dtype} {list(values.shape)}, and the model has it as"
                f" {held[name].dtype} {list(held[name].shape)}"
            )
    for name, values in found.items():
        held[name].copy_(values)


def _entry(name: str, tensor: torch.Tensor, source: _Source) -> Drawn:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ConfigurationError(f"the tensor {name!r} is of {dtype}; a recipe draws {' and '.join(DTYPES)}")
    return Drawn(tensor=name, dtype=dtype, shape=tuple(tensor.shape), draw=source.draw, **source.numbers)


def _unknown(model: nn.Module, name: str) -> str:
    of_keras = {each.name: type(each.layer).__name__ for each in keras_models.variables_in(model)}
    kind = of_keras.get(name) or type(model.get_submodule(name.rpartition(".")[0])).__name__
    hint = (
        "; where the model's code computes it anew each time, register it with persistent=False"
        if name in buffers_of(model)
        else ""
    )
    return f"nothing is known of how a {kind} first fills {name!r}: add an entry for it by hand{hint}"


def _tensor(module: nn.Module, name: str) -> torch.Tensor | None:
    """A parameter or buffer of a module, by its dotted name; None where it is absent or switched off."""
    owner, _, last = name.rpartition(".")
    found = getattr(module.get_submodule(owner), last, None)
    return found if isinstance(found, torch.Tensor) else None


def _sources(module: nn.Module, prefix: str) -> _Sources:
    """Where a module's tensors come from, by their names below it; nothing for a kind that is not known."""
    for tensor in itertools.chain(module.parameters(recurse=False), module.buffers(recurse=False)):
        if is_lazy(tensor):
            raise ConfigurationError(f"the layer {prefix!r} has no shape yet: run the model once on an example")
    if isinstance(module, nn.Transformer):  # whoever derives from it calls its __init__ too
        yield from ((name, _xavier(tensor)) for name, tensor in module.named_parameters() if tensor.dim() > 1)
        return
    rule = _RULES.get(type(module))  # a class derived from one of these may fill its tensors in another way
    if rule is not None:
        yield from rule(module, prefix)
    configs = getattr(module, "peft_config", None)  # of adapters in the layers below, by their names
    if isinstance(configs, Mapping):
        for name, config in configs.items():
            yield from _adapter(module, name, config)


def _uniform(bound: float) -> _Source:
    return _Source("uniform", {"low": -bound, "high": bound})


def _normal(std: float) -> _Source:
    return _Source("normal", {"mean": 0.0, "std": std, "low": -NORMAL_BOUND * std, "high": NORMAL_BOUND * std})


def _constant(value: float) -> _Source:
    return _Source("constant", {"value": value})


def _fans(tensor: torch.Tensor) -> tuple[int, int]:
    """What ``torch.nn.init`` calls fan_in and fan_out."""
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def _xavier(tensor: torch.Tensor) -> _Source:
    return _uniform(math.sqrt(6.0 / sum(_fans(tensor))))


def _by_fan_in(module: Any, _: str) -> _Sources:
    """``kaiming_uniform_`` with a = sqrt(5) is uniform within one over the root of fan_in, as the bias is."""
    source = _uniform(1.0 / math.sqrt(_fans(module.weight)[0]))
    yield from (("weight", source), ("bias", source))


def _bilinear(module: Any, _: str) -> _Sources:
    source = _uniform(1.0 / math.sqrt(module.weight.shape[1]))
    yield from (("weight", source), ("bias", source))


def _normalisation(_: Any, __: str) -> _Sources:
    yield from (("weight", _constant(1.0)), ("bias", _constant(0.0)))
    yield from (("running_mean", _constant(0.0)), ("running_var", _constant(1.0)))


def _embedding(module: Any, prefix: str) -> _Sources:
    if module.padding_idx is not None:
        raise ConfigurationError(
            f"the embedding {prefix!r} has a row of zeros, its padding_idx, and no draw of a recipe has such a row: add"
            " an entry by hand, and leave padding out in the training step"
        )
    yield "weight", _normal(1.0)


def _recurrent(module: Any, _: str) -> _Sources:
    source = _uniform(1.0 / math.sqrt(module.hidden_size))
    yield from ((name, source) for name, _ in module.named_parameters(recurse=False))


def _attention(module: Any, _: str) -> _Sources:
    for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
        weight = getattr(module, name)
        if weight is not None:
            yield name, _xavier(weight)
    yield from (("in_proj_bias", _constant(0.0)), ("out_proj.bias", _constant(0.0)))
    for name in ("bias_k", "bias_v"):
        bias = getattr(module, name)
        if bias is not None:
            yield name, _normal(math.sqrt(2.0 / sum(_fans(bias))))


def _adapter(model: nn.Module, adapter: str, config: Any) -> _Sources:
    """What peft fills a LoRA adapter with (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021):
    nothing is added to the layers at first. No other adapter of peft's is known here."""
    lora = sys.modules.get("peft.tuners.lora.layer")
    if lora is None or getattr(config, "peft_type", None) != "LORA":
        return
    way = config.init_lora_weights
    if config.use_dora or way not in (True, False, "gaussian"):
        kind = "DoRA" if config.use_dora else f"init_lora_weights={way!r}"
        raise ConfigurationError(
            f"the adapter {adapter!r} begins with values that are made of the base's ({kind}), which no recipe draws:"
            " take plain LoRA, or leave the recipe out and agree on first_model alone"
        )
    for prefix, layer in model.named_modules():
        if isinstance(layer, lora.LoraLayer):
            yield from ((f"{prefix}.{name}", source) for name, source in _lora(layer, adapter, way))


def _lora(layer: Any, adapter: str, way: bool | str) -> _Sources:
    """The tensors of an adapter in one layer; those of embeddings are the other way round. ``way``: what peft calls
    ``init_lora_weights``; not at all (False) means as ``torch.nn`` does, which the layers' own rules know."""
    if way is not False and adapter in layer.lora_A:
        if way == "gaussian":
            yield f"lora_A.{adapter}.weight", _normal(1.0 / layer.r[adapter])
        yield from ((f"lora_B.{adapter}.{name}", _constant(0.0)) for name in ("weight", "bias"))
    if way is not False and adapter in layer.lora_embedding_A:
        yield from ((f"lora_embedding_A.{adapter}", _constant(0.0)), (f"lora_embedding_B.{adapter}", _normal(1.0)))


def _slope(module: Any, _: str) -> _Sources:
    yield "weight", _constant(float(module.init))


_RULES: Final[Mapping[type[nn.Module], Callable[[Any, str], _Sources]]] = {
    nn.Bilinear: _bilinear,
    nn.MultiheadAttention: _attention,
    nn.PReLU: _slope,
    **dict.fromkeys((nn.Linear, NonDynamicallyQuantizableLinear), _by_fan_in),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _by_fan_in),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _by_fan_in),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), _normalisation),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _normalisation),
    **dict.fromkeys((nn.LayerNorm, nn.GroupNorm, nn.RMSNorm), _normalisation),
    **dict.fromkeys((nn.Embedding, nn.EmbeddingBag), _embedding),
    **dict.fromkeys((nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell), _recurrent),
}
