"""Keras at a worker: what its optimizers keep follows the variables, and its random numbers are drawn where they go.

Keras would keep momenta here while the weights are at a worker, and read the state of a seed generator, whose value may
be at a worker or none that a plan could have.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import torch

from cloister.tensor import keras_models, states
from cloister.tensor.pointer import PointerTensor


def install(model: torch.nn.Module) -> None:
    """Hooks Keras, once, if there are layers of it in a model."""
    if not keras_models.has_layers(model):
        return
    random: Any = sys.modules["keras.src.backend.torch.random"]
    if not hasattr(random.torch_seed_generator, "_cloister"):
        random.torch_seed_generator = _seeded_elsewhere(random.torch_seed_generator)
        optimizer = next(each for each in sys.modules["keras"].optimizers.Optimizer.__mro__ if "apply" in vars(each))
        optimizer.apply = _following(optimizer.apply)


def _seeded_elsewhere(plain: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The generator of a layer's random numbers; None, as for tensors without values, where those are not drawn here:
    the seed is then the plan's, or comes from PyTorch's own generator with each command to a worker."""

    @wraps(plain)
    def torch_seed_generator(seed: Any) -> Any:
        modes = map(torch._C._get_dispatch_stack_at, range(torch._C._len_torch_dispatch_stack()))
        return None if any(getattr(mode, "seeds", False) for mode in modes) else plain(seed)

    torch_seed_generator._cloister = True  # type: ignore[attr-defined]
    return torch_seed_generator


def _following(plain: Callable[..., None]) -> Callable[..., None]:
    """An optimizer's ``apply``, before which what it keeps is brought to where the variables are."""

    @wraps(plain)
    def apply(optimizer: Any, grads: Any, trainable_variables: Iterable[Any] | None = None) -> None:
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            if not optimizer.built:
                optimizer.build(trainable_variables)
            _bring(optimizer, trainable_variables)
        plain(optimizer, grads, trainable_variables)

    return apply


def _bring(optimizer: Any, variables: Iterable[Any]) -> None:
    places = [each.value.location for each in variables if isinstance(each.value, PointerTensor)]
    kept = {at: each.value for at, each in enumerate(optimizer.variables)}
    if places:
        states.bring_to(places[0], [kept])
    else:
        states.replace([kept], states.fetched(states.pointers_in([kept])))
    for at, each in enumerate(optimizer.variables):
        each._value = kept[at]
