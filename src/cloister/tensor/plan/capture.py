"""``@cloister.plan``: a loss function whose training step can be captured as a plan."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from cloister.errors import PlanError
from cloister.tensor import call_sites, keras_hooks, keras_models
from cloister.tensor.geometry import DTYPE_NAMES
from cloister.tensor.held import buffers_of, parameters_of
from cloister.tensor.plan import encoding, lowering
from cloister.tensor.plan.batch import SIZES
from cloister.tensor.plan.lowering import Captured
from cloister.tensor.plan.plan import Plan
from cloister.tensor.plan.program import LOSS, RESERVED, Buffer, Parameter, Rows
from cloister.tensor.plan.tracing import Recorder, plain_kernels
from cloister.tensor.pointer import PointerTensor

_BY_PLACE: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

Outcome = Tensor | Mapping[str, Tensor]
"""What a loss function returns: the loss, or the loss and metrics by name, each a tensor without dimensions."""


class PlannedLoss:
    """A loss function that can be called, and captured."""

    def __init__(self, function: Callable[..., Outcome]) -> None:
        self.function = function
        self.__name__ = getattr(function, "__name__", "loss")
        self.__doc__ = function.__doc__

    def __call__(self, model: nn.Module, *batch: Tensor) -> Outcome:
        """The function itself, in plain PyTorch."""
        return self.function(model, *batch)

    def __repr__(self) -> str:
        return f"<plan of {self.__name__}>"

    def capture(self, model: nn.Module, *, example: Sequence[Tensor]) -> Plan:
        """The plan of one step: loss, metrics, gradients and new buffers, for a batch of any size.

        The function runs three times, at three batch sizes, on tensors without values; the model is not changed, and
        its values and those of the example do not matter. What does: shapes, element types, which parameters have
        ``requires_grad``, and the modes of the modules (``train`` or ``eval``).

        Args:
            example: one batch; the first dimension of each of its tensors is the batch's.

        Raises:
            PlanError: the step reads values, makes Python numbers from the batch, or does what no plan can; with the
                line of the script that does it.
        """
        parameters, buffers, rows = _parameters(model), _buffers(model), self._rows(example)
        with plain_kernels(), torch.inference_mode(False):
            captured = [self._at(size, model, parameters, buffers, rows) for size in SIZES]
        program = lowering.lower(captured, parameters=parameters, buffers=buffers, rows=rows)
        return Plan.decode(encoding.encode(program))

    def _rows(self, example: Sequence[Tensor]) -> tuple[Rows, ...]:
        _check_example(example)
        names = self._names(len(example))
        return tuple(
            Rows(name, _dtype(tensor), tuple(tensor.shape[1:])) for name, tensor in zip(names, example, strict=True)
        )

    def _names(self, count: int) -> list[str]:
        """What the function calls the tensors of a batch; those behind a star are numbered."""
        found = list(inspect.signature(self.function).parameters.values())[1:]
        names = [each.name for each in found if each.kind in _BY_PLACE][:count]
        starred = next((each.name for each in found if each.kind is inspect.Parameter.VAR_POSITIONAL), "column")
        return [*names, *(f"{starred}{at}" for at in range(count - len(names)))]

    def _at(
        self,
        size: int,
        model: nn.Module,
        parameters: Sequence[Parameter],
        buffers: Sequence[Buffer],
        rows: Sequence[Rows],
    ) -> Captured:
        recorder = Recorder()
        own = parameters_of(model), buffers_of(model)
        leaves: list[nn.Parameter] = []
        memo: dict[int, Any] = {}
        for parameter, held in zip(parameters, own[0].values(), strict=True):
            leaf = nn.Parameter(recorder.stand_in(held.dtype, held.shape), requires_grad=parameter.trained)
            recorder.rename(leaf, len(leaves))
            leaves.append(leaf)
            memo[id(held)] = leaf
        for buffer in own[1].values():
            memo[id(buffer)] = recorder.stand_in(buffer.dtype, buffer.shape)
        batch = [recorder.stand_in(getattr(torch, each.dtype), (size, *each.row)) for each in rows]
        with _on_stand_ins(model, memo) as replica:
            with torch.enable_grad(), recorder:
                loss, metrics = self._forward(replica, batch)
                self._guarded(loss.backward)
            after = buffers_of(replica)
        if list(after) != list(own[1]):
            raise PlanError(f"{self.__name__} adds or removes buffers of the model")
        if all(leaf.grad is None for leaf in leaves):
            raise PlanError(f"{self.__name__} returns no 'loss' that depends on a parameter of the model")
        return Captured(
            recorder.trace,
            recorder.number_of(loss),
            tuple((name, recorder.number_of(value)) for name, value in metrics.items()),
            tuple(None if leaf.grad is None else recorder.number_of(leaf.grad) for leaf in leaves),
            tuple(recorder.number_of(value) for value in after.values()),
        )

    def _guarded(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls it, and says of any error in which line of the script it came up."""
        try:
            return function(*args)
        except PlanError:
            raise
        except Exception as fault:
            place = call_sites.describe(call_sites.raised(fault) or call_sites.current())
            raise PlanError(f"{place}: {type(fault).__name__} on tensors without values: {fault}") from fault

    def _forward(self, model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        outcome: Any = self._guarded(self.function, model, *batch)
        if not isinstance(outcome, (Tensor, Mapping)):
            raise PlanError(f"{self.__name__} must return the loss, or a dict of the loss and metrics")
        metrics = {LOSS: outcome} if isinstance(outcome, Tensor) else dict(outcome)
        for name, value in metrics.items():
            if not isinstance(value, Tensor) or value.dim():
                raise PlanError(f"{self.__name__} returns {name!r}, which is no tensor without dimensions")
            if name in RESERVED and name != LOSS:
                raise PlanError(f"{self.__name__} returns {name!r}, which every training reports anyway; rename it")
        loss = metrics.pop(LOSS, None)
        if loss is None or not loss.requires_grad:
            raise PlanError(f"{self.__name__} returns no 'loss' that depends on a parameter with requires_grad")
        return loss, {name: value.detach() for name, value in metrics.items()}


def plan(function: Callable[..., Outcome]) -> PlannedLoss:
    """Marks a pure function of model and batch, which returns the loss and metrics of one batch, for capture as a plan.

    It takes the model and the batch's tensors, and returns the loss or ``{"loss": ..., "accuracy": ...}``.
    """
    return PlannedLoss(function)


@contextmanager
def _on_stand_ins(model: nn.Module, memo: dict[int, Any]) -> Iterator[nn.Module]:
    """The model on other tensors, by the ``id`` of its own."""
    if keras_models.has_layers(model):
        keras_hooks.install(model)
        with keras_models.standing_in(model, memo):
            yield model
        return
    try:
        replica = copy.deepcopy(model, memo)
    except Exception as fault:
        raise PlanError(f"the model cannot be copied, which capturing needs: {fault}") from fault
    yield replica


def _parameters(model: nn.Module) -> tuple[Parameter, ...]:
    aliases = _aliases(parameters_of(model, all_names=True).items())
    found = []
    for tensor in parameters_of(model).values():
        _check_held(aliases[id(tensor)][0], tensor)
        found.append(
            Parameter(tuple(aliases[id(tensor)]), DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), tensor.requires_grad)
        )
    return tuple(found)


def _buffers(model: nn.Module) -> tuple[Buffer, ...]:
    aliases = _aliases(buffers_of(model, all_names=True).items())
    found = []
    for tensor in buffers_of(model).values():
        _check_held(aliases[id(tensor)][0], tensor)
        found.append(Buffer(tuple(aliases[id(tensor)]), DTYPE_NAMES[tensor.dtype], tuple(tensor.shape)))
    return tuple(found)


def _aliases(named: Any) -> dict[int, list[str]]:
    aliases: dict[int, list[str]] = {}
    for name, tensor in named:
        aliases.setdefault(id(tensor), []).append(name)
    return aliases


def _check_held(name: str, tensor: Tensor) -> None:
    if isinstance(tensor, PointerTensor):
        raise PlanError(f"{name} is at {tensor.location.id}; get() the model, then capture")
    if tensor.dtype not in DTYPE_NAMES or tensor.layout is not torch.strided:
        raise PlanError(f"{name} is of a kind that plans do not take: {tensor.dtype}, {tensor.layout}")


def _check_example(example: Sequence[Tensor]) -> None:
    if (
        not isinstance(example, (tuple, list))
        or not example
        or not all(isinstance(tensor, Tensor) for tensor in example)
    ):
        raise PlanError("example must be a tuple of tensors, one batch: example=(x, y)")
    if len({tensor.shape[:1] for tensor in example}) != 1 or not example[0].dim():
        raise PlanError("the tensors of the example must all have the batch as their first dimension, and be as long")


def _dtype(tensor: Tensor) -> str:
    if tensor.dtype not in DTYPE_NAMES:
        raise PlanError(f"plans take no tensors of {tensor.dtype}")
    return DTYPE_NAMES[tensor.dtype]
