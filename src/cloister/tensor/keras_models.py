"""Keras models, whose backend is PyTorch: what their variables are, and how they run on other tensors for a while.

Nothing here imports Keras: a Keras model can only come from a script that has.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final, NamedTuple

from torch import Tensor, nn

from cloister.errors import ConfigurationError, PlanError

PARAMETER: Final = "parameter"
BUFFER: Final = "buffer"
SEED: Final = "seed"
"""What a Keras variable is. A seed generator's state is no part of a model: who runs a plan gives the seed."""


class KerasVariable(NamedTuple):
    """A variable of a Keras layer. Its name is the layer's and its own, ``dense_1/kernel``; layers that Keras has named
    are numbered as in a new process, so that a model built twice has the same names."""

    name: str
    variable: Any
    role: str
    layer: Any

    @property
    def tensor(self) -> Tensor:
        """Its value: a parameter, to PyTorch."""
        return self.variable.value  # type: ignore[no-any-return]


def check(model: object) -> None:
    """Refuses a Keras model that is no module of PyTorch, or that has no weights yet.

    Raises:
        ConfigurationError: it says what to write.
    """
    kind = _layer_class()
    if kind is None:
        return
    if isinstance(model, kind) and not isinstance(model, nn.Module):
        raise ConfigurationError(
            f"Keras runs on {_keras().backend.backend()} here: write os.environ['KERAS_BACKEND'] = 'torch' before the"
            " first `import keras`"
        )
    for _, layer in _outermost(model):
        if not layer.built:
            raise ConfigurationError(
                f"the Keras model {layer.name!r} has no weights yet: have it begin with keras.Input(...), or call it"
                " once on an example"
            )


def variables_in(model: nn.Module) -> list[KerasVariable]:
    """All variables of the Keras layers in a model, each once."""
    found: dict[int, KerasVariable] = {}
    for prefix, outermost in _outermost(model):
        labels: set[str] = set()
        for layer in _within(outermost):
            roles = [
                (PARAMETER, layer._trainable_variables),
                (BUFFER, layer._non_trainable_variables),
                (SEED, [generator.state for generator in layer._seed_generators]),
            ]
            own = [(role, each) for role, held in roles for each in held if id(each) not in found]
            if own:
                label = _new(re.sub(r"_\d+$", "", layer.name) if _named_by_keras(layer) else layer.name, labels)
                names: set[str] = set()
                for role, each in own:
                    name = _new(re.sub(r"^variable_\d+$", "variable", each.name), names)
                    found[id(each)] = KerasVariable(f"{prefix}{label}/{name}", each, role, layer)
    return list(found.values())


@contextmanager
def standing_in(model: nn.Module, tensors: Mapping[int, Tensor]) -> Iterator[None]:
    """Has a model that holds Keras layers run on others than its own tensors, which are given by the ``id`` of those.

    What the model holds meanwhile are those, and what it writes to buffers. Its own values stay as they are.

    Raises:
        PlanError: in the end, if a parameter was written to.
    """
    keras, known = _keras(), [each for each in variables_in(model) if each.role != SEED]
    mapping = {id(each.variable): tensors[id(each.tensor)] for each in known}
    scope = keras.StatelessScope([(each.variable, mapping[id(each.variable)]) for each in known], collect_losses=True)
    with ExitStack() as stack:
        for part in _modules(model):
            for held in (vars(part)["_parameters"], vars(part)["_buffers"]):
                stack.callback(held.update, dict(held))
                held.update({name: tensors.get(id(each), each) for name, each in held.items()})
        stack.enter_context(keras.device("cpu"))
        stack.enter_context(scope)
        yield
        for each in known:
            if each.role == PARAMETER and each.tensor is not mapping[id(each.variable)]:
                raise PlanError(f"the step writes to the parameter {each.name}; only optimizers do")


@contextmanager
def copying(model: nn.Module) -> Iterator[None]:
    """While it is in force, ``copy.deepcopy`` copies Keras models whose layers are the script's own.

    Keras copies a model by way of a file of it.
    """
    layers = _layers(model)
    if not layers:
        yield
        return
    own = {type(each).__name__: type(each) for each in layers if not type(each).__module__.startswith("keras.")}
    with _keras().saving.custom_object_scope(own), warnings.catch_warnings():
        # Of a model that was compiled and not trained yet; its optimizer is not what is copied for.
        warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer", category=UserWarning)
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)  # of a file
        yield


def has_layers(model: nn.Module) -> bool:
    """Whether there are Keras layers in a model."""
    return bool(_outermost(model))


def _outermost(model: object) -> list[tuple[str, Any]]:
    """The Keras layers in a module that are in no other, each with the prefix of its tensors' names."""
    kind = _layer_class()
    if kind is None or not isinstance(model, nn.Module):
        return []
    found: list[tuple[str, Any]] = []
    for name, part in model.named_modules():
        if isinstance(part, kind) and not any(name.startswith(prefix) for prefix, _ in found):
            found.append((f"{name}." if name else "", part))
    return found


def _within(layer: Any) -> list[Any]:
    """A layer and those in it, each once, in the order in which it was given them."""
    found = {id(layer): layer}
    for part in layer._layers:
        found |= {id(each): each for each in _within(part) if id(each) not in found}
    return list(found.values())


def _modules(model: nn.Module) -> list[nn.Module]:
    """All modules of a model, also those that only a layer of Keras knows: in its TorchModuleWrapper."""
    return list({id(part): part for each in (model, *_layers(model)) for part in each.modules()}.values())


def _layers(model: nn.Module) -> list[Any]:
    return [each for _, outermost in _outermost(model) for each in _within(outermost)]


def _keras() -> Any:
    return sys.modules["keras"]


def _layer_class() -> Any:
    return getattr(sys.modules.get("keras"), "Layer", None)


def _named_by_keras(layer: Any) -> bool:
    """Whether a layer has the name that Keras gives one without: its class's, and a number that counts on."""
    words = re.sub(r"_\d+$", "", layer.name)
    return words.replace("_", "") == type(layer).__name__.lower()


def _new(name: str, taken: set[str]) -> str:
    """The name, with the first number that no other has if there are others."""
    numbered, number = name, 0
    while numbered in taken:
        number += 1
        numbered = f"{name}_{number}"
    taken.add(numbered)
    return numbered
