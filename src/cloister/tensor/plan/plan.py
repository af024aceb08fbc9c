"""``Plan``: a program that was checked, ready to be read, named and run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import torch

from cloister.tensor.geometry import DTYPE_NAMES, Geometry
from cloister.tensor.plan import encoding, listing
from cloister.tensor.plan.batch import SIZES, fit
from cloister.tensor.plan.checking import Checked, check, shapes_of
from cloister.tensor.plan.program import Program
from cloister.tensor.plan.replay import Outcome, Replay
from cloister.tensor.plan.vectorised import Vectorised

_KEPT_LINES: Final = 1 << 19
"""How many prepared lines a plan keeps, over all batch sizes that it was made ready for."""
_MEMORY_BYTES: Final = 1 << 36


class Plan:
    """The loss, the metrics and the gradients of one batch, as a pure function of parameters, buffers, batch and seed.

    It is data: a list of ATen operations. ``code`` shows it, ``digest`` names it, ``encode`` gives the bytes that
    ``decode`` takes.
    """

    def __init__(self, program: Program, data: bytes, checked: Checked) -> None:
        self.program: Final = program
        self._data = data
        self._checked = checked
        self._replays: dict[tuple[int, torch.device], Replay] = {}
        self._vectorised: dict[tuple[int, torch.device], Vectorised] = {}

    @classmethod
    def decode(cls, data: bytes, *, memory_bytes: int = _MEMORY_BYTES) -> Plan:
        """The plan that these bytes spell, checked: operations, arguments, order, shapes, memory, constants.

        Args:
            memory_bytes: the most that one step may hold at once, parameters and batch included.

        Raises:
            PlanError: the bytes are no plan, or one that must not run.
        """
        program = encoding.decode(data)
        return cls(program, bytes(data), check(program, memory_bytes=memory_bytes))

    def encode(self) -> bytes:
        """The plan as bytes."""
        return self._data

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the plan's bytes: the same on every machine, in every run and for every batch size."""
        return encoding.digest(self._data)

    @cached_property
    def code(self) -> str:
        """The plan for reading: one line an operation, with the shapes of what it makes; b is the batch size."""
        seen = [shapes_of(self.program, self._checked, size).geometries for size in SIZES]
        return listing.listing(self.program, [_shown(each) for each in zip(*seen, strict=True)], self.digest)

    def __repr__(self) -> str:
        return f"<Plan {self.digest.hex()[:12]}: {len(self.program.lines)} operations>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self._data == other._data

    def __hash__(self) -> int:
        return hash(self._data)

    def step(
        self,
        parameters: Mapping[str, torch.Tensor],
        buffers: Mapping[str, torch.Tensor],
        batch: Sequence[torch.Tensor],
        *,
        seed: int = 0,
        step: int = 0,
    ) -> Outcome:
        """Runs the plan on one batch. What it is given stays as it is.

        Args:
            parameters: by name, as ``dict(model.named_parameters())`` gives them.
            buffers: by name, as ``dict(model.named_buffers())`` gives them.
            batch: as many tensors as the example had; their first dimension is the batch's.
            seed: with ``step`` and the operation's place in the plan it decides all random numbers; 64 bits.
            step: the step's number; 64 bits.

        Raises:
            PlanError: tensors that do not fit the plan, or an operation that failed on their values.
        """
        replay = self.replay(len(batch[0]) if len(batch) and batch[0].dim() else 0, _device_of(batch))
        return replay.run(parameters, buffers, batch, seed=seed, step=step)

    def replay(self, size: int, device: torch.device) -> Replay:
        """The plan made ready for batches of ``size``; kept for the next such batch.

        Raises:
            PlanError: the plan does not fit batches of that size.
        """
        found = self._replays.get((size, device))
        if found is None:
            self._make_room(self._replays)
            found = self._replays[size, device] = Replay(self.program, self._checked, size=size, device=device)
        return found

    def vectorised(self, size: int, device: torch.device, *, memory_bytes: int = _MEMORY_BYTES) -> Vectorised:
        """The plan made ready for many models at once, each with a batch of ``size``; kept as a replay is.

        Raises:
            PlanError: it cannot be, would take more than ``memory_bytes`` for each model, or does not fit batches of
                that size; the message says why.
        """
        found = self._vectorised.get((size, device))
        if found is None:
            self._make_room(self._vectorised)
            made = Vectorised(self.program, self._checked, size=size, device=device, memory_bytes=memory_bytes)
            found = self._vectorised[size, device] = made
        return found

    def _make_room(self, kept: dict[Any, Any]) -> None:
        if (len(kept) + 1) * len(self.program.lines) > _KEPT_LINES:
            kept.pop(next(iter(kept), None), None)


def _shown(geometries: Sequence[Geometry | None]) -> str:
    """Element type and shape of a value, from those that it has at ``SIZES``."""
    first = geometries[0]
    if first is None or any(other is None for other in geometries):
        return "absent"
    shapes = [geometry.shape for geometry in geometries if geometry is not None]
    extents = [fit(extents) for extents in zip(*shapes, strict=True)]
    name = DTYPE_NAMES[first.dtype]
    return f"{name}[{', '.join('?' if extent is None else str(extent) for extent in extents)}]"


def _device_of(batch: Sequence[torch.Tensor]) -> torch.device:
    return batch[0].device if len(batch) else torch.device("cpu")
