"""What a script asks of a worker, whichever kind it is: find tensors, make tensors there, train, count what is held."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from cloister.errors import ConfigurationError
from cloister.tensor import states  # noqa: F401  - teaches pointers to move
from cloister.tensor.factories import BornAt, upload
from cloister.tensor.former import OF_WORKERS, explain
from cloister.tensor.plan.plan import Plan
from cloister.tensor.pointer import PointerTensor
from cloister.tensor.session import Location
from cloister.tensor.training import Optimizer, TrainingReport, train
from cloister.wire.limits import NAME_CHARS, TAGS


class Worker(Location):
    """A place where tensors live. ``VirtualWorker`` is one in this process, ``connect`` gives one elsewhere."""

    def send(self, tensor: torch.Tensor, *, tags: Sequence[str] = ()) -> PointerTensor:
        """Sends a local tensor's values here and returns a pointer to them; the local tensor is unchanged.

        With ``tags`` the values stay findable by ``search``, also when the pointer is gone: until the session ends,
        ``get`` or ``move`` takes them away, or ``untag`` takes the tags off.

        Raises:
            MessageError: an element type or layout that does not travel.
            ConfigurationError: tags that are no strings, too many or too long.
        """
        checked = _checked(tags)
        pointer = upload(tensor, self)
        if checked:
            self.tag(pointer.remote, checked)
        return pointer

    def search(self, *tags: str) -> list[PointerTensor]:
        """Pointers to the tensors here that carry all of ``tags``: registered data sets, and what was sent with tags.

        Raises:
            InteractiveRefusedError: only data sets match that their owner keeps closed to interactive use.
        """
        return [PointerTensor.make(obj, geometry) for obj, geometry in self.find(_checked(tags))]

    def train(
        self,
        plan: Plan,
        *,
        model: nn.Module,
        data: torch.Tensor | Sequence[torch.Tensor],
        optimizer: Optimizer,
        batch_size: int,
        local_epochs: int = 1,
        seed: int = 0,
        proximal: float = 0.0,
        clip: float | None = None,
    ) -> TrainingReport:
        """Trains a model that was sent here, in place, on data that is here: one message, and numbers come home.

        The steps are those of ``cloister.worker.training.train``, to the last bit on a processor of the same kind with
        as many threads (the node's ``threads``). If anything goes wrong, the model is as it was. This waits until the
        training is over: ``connect(..., answer_s=...)`` says for how long.

        Args:
            plan: what the loss was captured as; it is sent along, and checked by the worker.
            model: with its parameters and buffers here, by the names that they had when the plan was captured.
            data: the plan's columns, as pointers: ``(x, y)``. Their first dimension counts the rows.
            optimizer: ``cloister.SGD``, ``Adam`` or ``AdamW``; it begins anew.
            batch_size: in rows; the last batch of an epoch is smaller if need be.
            seed: 0 to 2^64 - 1; it decides the order of the rows and all random numbers.
            proximal: the mu of FedProx (Li et al. 2020, equation 2).
            clip: the most that the L2 norm of the model's change may be; a larger one is scaled down to it.

        Raises:
            NotColocatedError: a part of the model or of the data is somewhere else.
            ConfigurationError: numbers out of range.
            PlanError: the worker refuses the plan, or it does not fit the model or the batch size.
            DataSetError: it does not fit the data; the message names the column.
            MemoryLimitError: it takes more memory than this session may have.
            TrainingError: training led to values that are not finite.
        """
        return train(
            plan,
            model=model,
            data=data,
            at=self,
            optimizer=optimizer,
            batch_size=batch_size,
            local_epochs=local_epochs,
            seed=seed,
            proximal=proximal,
            clip=clip,
        )

    def zeros(self, *size: Any, **options: Any) -> torch.Tensor:
        """``torch.zeros``, born here."""
        return self._born(torch.zeros, *size, **options)

    def ones(self, *size: Any, **options: Any) -> torch.Tensor:
        """``torch.ones``, born here."""
        return self._born(torch.ones, *size, **options)

    def full(self, size: Sequence[int], value: float, **options: Any) -> torch.Tensor:
        """``torch.full``, born here."""
        return self._born(torch.full, size, value, **options)

    def arange(self, *bounds: Any, **options: Any) -> torch.Tensor:
        """``torch.arange``, born here."""
        return self._born(torch.arange, *bounds, **options)

    def linspace(self, start: float, end: float, steps: int, **options: Any) -> torch.Tensor:
        """``torch.linspace``, born here."""
        return self._born(torch.linspace, start, end, steps, **options)

    def eye(self, *size: Any, **options: Any) -> torch.Tensor:
        """``torch.eye``, born here."""
        return self._born(torch.eye, *size, **options)

    def rand(self, *size: Any, **options: Any) -> torch.Tensor:
        """``torch.rand``, born here; ``torch.manual_seed`` reproduces it."""
        return self._born(torch.rand, *size, **options)

    def randn(self, *size: Any, **options: Any) -> torch.Tensor:
        """``torch.randn``, born here; ``torch.manual_seed`` reproduces it."""
        return self._born(torch.randn, *size, **options)

    def randint(self, *bounds: Any, **options: Any) -> torch.Tensor:
        """``torch.randint``, born here; ``torch.manual_seed`` reproduces it."""
        return self._born(torch.randint, *bounds, **options)

    def randperm(self, count: int, **options: Any) -> torch.Tensor:
        """``torch.randperm``, born here; ``torch.manual_seed`` reproduces it."""
        return self._born(torch.randperm, count, **options)

    def _born(self, factory: Callable[..., torch.Tensor], *args: Any, **options: Any) -> torch.Tensor:
        with BornAt(self):
            return factory(*args, **options)

    def __deepcopy__(self, memo: dict[int, Any]) -> Worker:
        return self  # A copied module stays where it is.

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


explain(Worker, OF_WORKERS)


def _checked(tags: Sequence[str]) -> tuple[str, ...]:
    given: Sequence[object] = tags
    if isinstance(given, str) or not all(isinstance(tag, str) and 0 < len(tag) <= NAME_CHARS for tag in given):
        raise ConfigurationError(f"tags are a list of strings of 1 to {NAME_CHARS} characters")
    if len(tags) > TAGS:
        raise ConfigurationError(f"at most {TAGS} tags, not {len(tags)}")
    return tuple(tags)
