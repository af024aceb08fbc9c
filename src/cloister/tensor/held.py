"""What a model holds, by name: its parameters, which are trained, and its buffers, which a step may write.

PyTorch's modules tell the two apart themselves. Keras on PyTorch registers all of its variables as parameters, the
moving averages of BatchNormalization too; what they are is told by ``cloister.tensor.keras_models``. Whoever lists a
model's tensors asks here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

from torch import Tensor, nn

from cloister.tensor import keras_models
from cloister.tensor.keras_models import BUFFER, PARAMETER


def parameters_of(model: nn.Module, *, all_names: bool = False) -> dict[str, Tensor]:
    """The model's parameters, by the first name of each; with ``all_names``, tied ones under every name.

    Raises:
        ConfigurationError: a Keras model that has no weights yet, or that runs on another backend.
    """
    keras_models.check(model)
    return _with_keras(model, model.named_parameters(remove_duplicate=not all_names), PARAMETER)


def buffers_of(model: nn.Module, *, all_names: bool = False) -> dict[str, Tensor]:
    """The same for the model's buffers.

    Raises:
        ConfigurationError: as ``parameters_of``.
    """
    keras_models.check(model)
    return _with_keras(model, model.named_buffers(remove_duplicate=not all_names), BUFFER)


def saved_in(model: nn.Module) -> set[int]:
    """The ``id``s of the tensors that are saved with the model: all but buffers with ``persistent=False``."""
    return set(map(id, model.state_dict(keep_vars=True).values()))


def copied(model: nn.Module) -> nn.Module:
    """A copy of the model, its values included."""
    with keras_models.copying(model):
        return copy.deepcopy(model)


def _with_keras(model: nn.Module, named: Iterable[tuple[str, Tensor]], role: str) -> dict[str, Tensor]:
    """What PyTorch lists, but for Keras' variables; and those of them that have this role."""
    known = keras_models.variables_in(model)
    theirs = {id(each.tensor) for each in known}
    return {
        **{name: tensor for name, tensor in named if id(tensor) not in theirs},
        **{each.name: each.tensor for each in known if each.role == role},
    }
