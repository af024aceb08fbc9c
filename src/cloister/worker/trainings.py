"""Trainings that a caller asks a session for. The caller is treated as hostile, and so is its plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch

from cloister.errors import (
    ConfigurationError,
    DataSetError,
    OpRefusedError,
    PlanError,
    RemoteConfigurationError,
    RemoteDataSetError,
    RemotePlanError,
    WorkerError,
)
from cloister.tensor.plan.encoding import PLAN_BYTES
from cloister.tensor.plan.program import Buffer, Parameter
from cloister.wire import sessions as m
from cloister.wire.limits import TEXT_CHARS
from cloister.worker import optimizers
from cloister.worker.data.batches import batches_in, check_batch_size
from cloister.worker.data.rows import Arrays
from cloister.worker.fitting import prepare
from cloister.worker.optimizers import Optimizer
from cloister.worker.plans import Plan
from cloister.worker.store import Store
from cloister.worker.torch_errors import reported
from cloister.worker.training import train_in_place
from cloister.worker.values import as_bytes, sendable

STEPS: Final = 1 << 22
"""The most steps that one training has. The loss of each is kept until its end."""

_COPIES: Final = 5
"""Of the model beside what a step holds: where it began and what changed, as vectors, what FedProx adds, and the
optimizer's own intermediate results."""
_ANY: Final = 1 << 62
"""Bytes that a step may take as far as loading a plan goes: the batches tried then may be larger than those that come,
which are held to the session's memory."""
_ROW_BYTES: Final = 16
"""An epoch's order, in bytes for each row."""


class Trainings:
    """Trains what a session holds, on its device, within its memory."""

    def __init__(self, store: Store, device: torch.device, begin: Callable[[str], None]) -> None:
        self._store = store
        self._begin = begin
        self._device = device
        self._plan: Plan | None = None

    def train(self, asked: m.Train) -> tuple[m.Trained, list[torch.Tensor]]:
        """Trains in place; the answer, and the loss of each step.

        Raises:
            WorkerError: it cannot be done, or failed; then the model is as it was.
        """
        try:
            return self._train(asked)
        except WorkerError:
            raise
        except PlanError as fault:
            raise RemotePlanError(str(fault)[:TEXT_CHARS]) from None
        except DataSetError as fault:
            raise RemoteDataSetError(str(fault)[:TEXT_CHARS]) from None
        except ConfigurationError as fault:
            raise RemoteConfigurationError(str(fault)[:TEXT_CHARS]) from None
        except Exception as fault:  # noqa: BLE001 - whatever PyTorch raises for these values, it is the caller's
            raise reported(fault) from None

    def _train(self, asked: m.Train) -> tuple[m.Trained, list[torch.Tensor]]:
        optimizer = optimizers.read(asked.optimizer)
        _check_apart(asked)
        plan = self._read(asked.plan)
        parameters = self._held("parameters", plan.program.parameters, asked.parameters)
        buffers = self._held("buffers", plan.program.buffers, asked.buffers)
        data = self._data(asked.columns)
        self._check_size(plan, asked, optimizer, rows=len(data))
        seen = train_in_place(
            plan,
            data,
            parameters=parameters,
            buffers=buffers,
            optimizer=optimizer,
            batch_size=asked.batch_size,
            local_epochs=asked.local_epochs,
            seed=asked.seed,
            proximal=asked.proximal,
            clip=asked.clip,
            begin=self._begin,
        )
        return m.Trained(seen.metrics, len(seen.losses)), [seen.losses]

    def _read(self, id: int) -> Plan:
        """The plan in an object; checked once, however often it is trained."""
        held = self._store.entry(id).tensor
        if held.dtype is not torch.uint8 or held.dim() != 1 or len(held) > PLAN_BYTES:
            raise PlanError(f"a plan is a vector of at most {PLAN_BYTES} bytes (uint8)")
        data = bytes(as_bytes(sendable(held)))
        if self._plan is None or self._plan.encode() != data:
            self._plan = None
            self._plan = Plan.decode(data, memory_bytes=_ANY)
        return self._plan

    def _held(self, what: str, named: Sequence[Parameter | Buffer], ids: Sequence[int]) -> dict[str, torch.Tensor]:
        if len(named) != len(ids):
            raise PlanError(f"the plan has {len(named)} {what}, and the training names {len(ids)}")
        held = {}
        for each, id in zip(named, ids, strict=True):
            entry = self._store.entry(id)
            pairs = zip(entry.geometry.shape, entry.geometry.strides, strict=True)
            if any(size > 1 and not stride for size, stride in pairs):
                raise OpRefusedError(
                    f"{each.names[0]!r} is an expanded view, whose elements share memory; clone it before it is trained"
                )
            held[each.names[0]] = entry.tensor
        return held

    def _data(self, ids: Sequence[int]) -> Arrays:
        columns = [self._store.entry(id).tensor for id in ids]
        # What is lazy about a column must not be kept by its rows; undoing it copies all of them.
        self._store.check_room(nbytes=sum(each.nbytes for each in columns if each.is_conj() or each.is_neg()))
        return Arrays({f"data[{at}]": each.resolve_conj().resolve_neg() for at, each in enumerate(columns)})

    def _check_size(self, plan: Plan, asked: m.Train, optimizer: Optimizer, *, rows: int) -> None:
        check_batch_size(asked.batch_size)
        steps = asked.local_epochs * batches_in(rows, batch_size=asked.batch_size)
        if steps > STEPS:
            raise ConfigurationError(
                f"these are {steps} steps and one training has {STEPS} at most; take fewer epochs or larger batches"
            )
        room = prepare(plan, rows=rows, batch_size=asked.batch_size, device=self._device)
        room += (_COPIES + optimizer.tensors_kept) * sum(
            self._store.entry(id).tensor.nbytes for id in (*asked.parameters, *asked.buffers)
        )
        room += rows * _ROW_BYTES + steps * 8 * (1 + len(plan.program.metrics))
        self._store.check_room(nbytes=room)


def _check_apart(asked: m.Train) -> None:
    written = [asked.plan, *asked.parameters, *asked.buffers]
    if len({*written, *asked.columns}) < len(written) + len(set(asked.columns)):
        raise OpRefusedError("a training names one object as two of plan, parameters, buffers and data")
