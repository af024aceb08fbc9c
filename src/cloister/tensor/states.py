"""The state of optimizers (momenta, moments), which follows the parameters that it belongs to.

PyTorch keeps it in the optimizer, keyed by the parameter. A module that comes home or goes to another worker takes
along what the optimizers keep for its parameters, so that what is left behind may be closed; what changed places in
another way is put right before the optimizer's next step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch.optim import Optimizer

from cloister.tensor.deferred import Draft
from cloister.tensor.factories import upload
from cloister.tensor.moving import move
from cloister.tensor.pointer import PointerTensor, fetch
from cloister.tensor.session import Location

# By id, and not in a WeakSet, which cannot be gone through while another thread adds to it.
_seen: WeakValueDictionary[int, Optimizer] = WeakValueDictionary()


def watch(optimizer: Optimizer) -> None:
    """Remembers an optimizer, for as long as somebody else holds it."""
    if id(optimizer) not in _seen:
        _seen[id(optimizer)] = optimizer


def before_step(optimizer: Optimizer, args: Any = (), kwargs: Any = None) -> None:
    """Brings each parameter's state to where the parameter is now; a hook of all optimizers' ``step``."""
    watch(optimizer)
    misplaced: dict[Location | None, list[Any]] = {}
    for parameter, state in optimizer.state.items():
        there = parameter.location if isinstance(parameter, PointerTensor) else None
        for value in state.values():
            if value is not None and not _is_at(value, there):
                misplaced.setdefault(there, []).append(state)
                break
    for there, states in misplaced.items():
        if there is None:
            replace(states, fetched(pointers_in(states)))
        else:
            bring_to(there, states)


def kept_for(parameters: Iterable[torch.Tensor]) -> list[Any]:
    """What the optimizers that were seen keep for these parameters, a mapping for each."""
    known = [optimizer.state for reference in _seen.valuerefs() if (optimizer := reference()) is not None]
    return [state[parameter] for parameter in parameters for state in known if parameter in state]


def pointers_in(states: Iterable[Any]) -> list[PointerTensor]:
    """The pointers among what is kept, each once."""
    found = {id(tensor): tensor for state in states for tensor in _tensors_in(state)}
    return [tensor for tensor in found.values() if type(tensor) is PointerTensor]


def replace(states: Iterable[Any], values: Mapping[int, torch.Tensor]) -> None:
    """Puts local tensors in the place of pointers; ``values`` are those behind each, by the pointer's ``id``."""

    def local(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.get() if type(tensor) is Draft else values.get(id(tensor), tensor)

    for state in states:
        _exchange(state, local)


def fetched(pointers: Iterable[PointerTensor]) -> dict[int, torch.Tensor]:
    """The values behind pointers, by each pointer's ``id``, with one round trip for each worker that holds any."""
    by_location: dict[Location, list[PointerTensor]] = {}
    for pointer in pointers:
        by_location.setdefault(pointer.location, []).append(pointer)
    values: dict[int, torch.Tensor] = {}
    for there in by_location.values():
        values.update(zip(map(id, there), fetch(there), strict=True))
    return values


def bring_to(worker: Location, states: Sequence[Any]) -> None:
    """Moves what is kept at other workers to ``worker``, and sends what is kept here.

    Numbers without dimensions stay: Adam reads its count of steps here.
    """
    move(pointers_in(states), worker, or_through_here=True)
    sent: dict[int, PointerTensor] = {}

    def there(tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, PointerTensor) or not tensor.dim():
            return tensor  # a draft is at no worker, and joins any
        if id(tensor) not in sent:
            sent[id(tensor)] = upload(tensor, worker)
        return sent[id(tensor)]

    for state in states:
        _exchange(state, there)


def move_with_state(pointers: Sequence[PointerTensor], parameters: Iterable[torch.Tensor], worker: Location) -> None:
    """Moves pointers, and what is kept for ``parameters``: with the same push where it comes from the same worker.

    Raises:
        MoveError: as ``move``.
    """
    kept = pointers_in(kept_for(parameters))
    sources = {pointer.location for pointer in pointers}
    move([*pointers, *(pointer for pointer in kept if pointer.location in sources)], worker)
    move(kept, worker, or_through_here=True)


def _is_at(value: Any, there: Location | None) -> bool:
    if type(value) is PointerTensor:
        return value.remote.location is there
    if isinstance(value, torch.Tensor):
        return type(value) is Draft if there is not None and value.dim() else type(value) is not Draft
    if isinstance(value, (MutableMapping, MutableSequence, tuple)):
        return all(_is_at(item, there) for item in (value.values() if isinstance(value, MutableMapping) else value))
    return True


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (MutableMapping, MutableSequence, tuple)):
        for item in value.values() if isinstance(value, MutableMapping) else value:
            yield from _tensors_in(item)


def _exchange(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The value with its tensors changed: within the same mappings and lists, since others hold them too."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, MutableMapping):
        for key, item in value.items():
            value[key] = _exchange(item, change)
    elif isinstance(value, MutableSequence):
        for at, item in enumerate(value):
            value[at] = _exchange(item, change)
    elif type(value) is tuple:
        return tuple([_exchange(item, change) for item in value])
    return value


def _bring(pointer: PointerTensor, worker: Location) -> None:
    move_with_state([pointer], [pointer], worker)


PointerTensor.bring = staticmethod(_bring)
