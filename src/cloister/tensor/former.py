"""Habits from PySyft 0.2: a name that is missing here is answered with the line to write instead.

Each is an ``AttributeError``, so that ``hasattr`` and ``getattr`` with a default say what they would say anyway.
"""

from __future__ import annotations

from typing import Final

import torch

_SHARED: Final = (
    "values are not split into shares or fixed-point numbers here; where owners do not trust each other, "
    "they meet in a study's aggregator: see docs/study.md"
)
_TAGGED: Final = 'tags are given when a tensor is sent: x.send(worker, tags=["#x"]); worker.search("#x") finds it'
OF_TENSORS: Final = {
    "tag": _TAGGED,
    "describe": "there are no descriptions; tags are words of any kind: x.send(worker, tags=[...])",
    "fix_precision": _SHARED,
    "fix_prec": _SHARED,
    "float_precision": _SHARED,
    "float_prec": _SHARED,
    "share": _SHARED,
    "federate": "send each part to its worker: [part.send(worker) for part, worker in zip(x.chunk(n), workers)]",
    "child": "a pointer holds no other tensor; pointer.location is its worker",
    "owner": "pointers belong to the process that made them; pointer.location is the worker that holds the values",
    "id_at_location": "ids are between the two ends; keep the pointer, or send with tags= and search",
    "remote_get": "write pointer.move(worker), or pointer.get()",
    "mid_get": "write pointer.get()",
    "get_tensor": "write pointer.get(keep=True)",
}
OF_WORKERS: Final = {
    "clear_objects": "objects go with their last pointer: del the pointers, or worker.close() the session",
    "objects_count": "write worker.count().objects",
    "_objects": "what a worker holds is not listed; worker.count() counts it, worker.search(...) finds what is tagged",
    "list_objects": "what a worker holds is not listed; worker.count() counts it",
    "add_worker": "workers need no introduction here: pointer.move(worker) finds its way",
    "add_workers": "workers need no introduction here: pointer.move(worker) finds its way",
    "register_obj": 'write x.send(worker, tags=["#x"])',
    "load_data": 'write [x.send(worker, tags=["#x"]) for x in data]',
    "fit": "write worker.train(plan, model=..., data=..., optimizer=...)",
    "async_fit": "write worker.train(plan, model=..., data=..., optimizer=...)",
}


def explain(of: type, names: dict[str, str]) -> None:
    """Has the missing attributes ``names`` of a class say what to write instead; what it has stays."""
    for name, instead in names.items():
        if not any(name in vars(base) for base in of.__mro__):
            setattr(of, name, _former(name, instead))


def _former(name: str, instead: str) -> property:
    """A name that is answered by a sentence, unless a script has set something under it."""

    def get(self: object) -> object:
        try:
            return vars(self)[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}: {instead}") from None

    def set_(self: object, value: object) -> None:
        vars(self)[name] = value

    def delete(self: object) -> None:
        vars(self).pop(name)

    return property(get, set_, delete, instead)


def install() -> None:
    """Explains what tensors do not have; ``cloister.tensor.worker`` explains what workers do not."""
    explain(torch.Tensor, OF_TENSORS)
