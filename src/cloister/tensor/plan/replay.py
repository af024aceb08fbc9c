"""Running a plan: a bare loop over what was prepared once for a batch size and a device.

All that can be decided before values are there is decided before: the loop takes values from a list by position, calls
PyTorch's operation, puts away what it made and drops what nothing names any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch

from cloister.errors import HostileIndexError, OpRefusedError, PlanError
from cloister.tensor.geometry import DTYPES
from cloister.tensor.plan import instructions
from cloister.tensor.plan.checking import Checked, shapes_of
from cloister.tensor.plan.program import Program
from cloister.tensor.plan.shapes import Shapes, given


class Outcome(NamedTuple):
    """What one step hands out; ``gradients`` and ``buffers`` by name, the latter all of them, new or as they were."""

    loss: torch.Tensor
    metrics: dict[str, torch.Tensor]
    gradients: dict[str, torch.Tensor]
    buffers: dict[str, torch.Tensor]


class _BelowAutograd:
    """Within it, operations run as PyTorch runs them below autograd: no graph, no notes about views.

    Gradient mode itself is left as it is: some kernels are chosen by it, and these must be those of a plain step.
    """

    def __enter__(self) -> None:
        self._autograd = torch._C._AutoDispatchBelowAutograd()
        self._autograd.__enter__()  # type: ignore[no-untyped-call]
        excluded = torch._C._dispatch_tls_local_exclude_set().add(torch._C.DispatchKey.ADInplaceOrView)
        self._views = torch._C._ExcludeDispatchKeyGuard(excluded)
        self._views.__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *fault: object) -> None:
        self._views.__exit__(*fault)
        self._autograd.__exit__(*fault)


class Replay:
    """A plan made ready for batches of one size on one device; ``mapped``: to run within ``vmap``."""

    def __init__(
        self,
        program: Program,
        checked: Checked,
        *,
        size: int,
        device: torch.device,
        shapes: Shapes | None = None,
        mapped: bool = False,
    ) -> None:
        shapes = shapes or shapes_of(program, checked, size)
        self._prepared = instructions.prepare(program, checked, shapes, size=size, device=device, mapped=mapped)
        self._trusted = False
        self.peak: Final = shapes.peak
        """The most memory that a step holds at once, inputs included, in bytes."""
        self._program = program
        self._device = device
        self._expected: Final = tuple((torch.Size(shape), DTYPES[dtype]) for dtype, shape in given(program, size))
        # These count from where a tensor's storage begins, and a batch may be a part of something larger.
        self._alone: Final = any(line.op.startswith("aten::as_strided") for line in program.lines)
        parameters, buffers = program.parameters, program.buffers
        self._parameters: Final = tuple(each.names[0] for each in parameters)
        self._buffers: Final = tuple(each.names[0] for each in buffers)
        self._gradients: Final = tuple(
            (name, value + 1)
            for name, value in zip(self._parameters, program.gradients, strict=True)
            if value is not None
        )
        self._updates: Final = tuple(
            (name, value + 1) for name, value in zip(self._buffers, program.updates, strict=True) if value is not None
        )
        self._metrics: Final = tuple((metric.name, metric.value + 1) for metric in program.metrics)
        self._loss: Final = program.loss + 1

    def run(
        self,
        parameters: Mapping[str, torch.Tensor],
        buffers: Mapping[str, torch.Tensor],
        batch: Sequence[torch.Tensor],
        *,
        seed: int,
        step: int,
    ) -> Outcome:
        """One step; as ``Plan.step``."""
        values = self._filled(parameters, buffers, batch)
        values[0] = (seed, step)
        read: Any = None
        try:
            with _BelowAutograd():
                for call, read, out, outs, dead in self._prepared.code:
                    made = call(*read(values))
                    if out:
                        values[out] = made
                    elif outs:
                        for at, value in zip(outs, made, strict=True):
                            values[at] = value
                    for at in dead:
                        values[at] = None
        except Exception as fault:
            raise self._failure(read, fault) from fault
        if not self._trusted:
            self._prepared.trust()
            self._trusted = True
        return Outcome(
            values[self._loss],
            {name: values[at] for name, at in self._metrics},
            {name: values[at] for name, at in self._gradients},
            {**{name: buffers[name] for name in self._buffers}, **{name: values[at] for name, at in self._updates}},
        )

    def _filled(
        self,
        parameters: Mapping[str, torch.Tensor],
        buffers: Mapping[str, torch.Tensor],
        batch: Sequence[torch.Tensor],
    ) -> list[Any]:
        values = self._prepared.blank.copy()
        if len(batch) != len(self._program.batch):
            raise PlanError(f"the plan takes batches of {len(self._program.batch)} tensors, not {len(batch)}")
        try:
            tensors = [*map(parameters.__getitem__, self._parameters), *map(buffers.__getitem__, self._buffers), *batch]
        except KeyError as fault:
            raise PlanError(f"the plan needs {fault.args[0]!r}, which was not given") from None
        for at, (tensor, (shape, dtype)) in enumerate(zip(tensors, self._expected, strict=False), 1):
            if tensor.shape != shape or tensor.dtype is not dtype or tensor.device != self._device:
                raise PlanError(self._misfit(at - 1, tensor))
            values[at] = tensor if tensor.is_contiguous() else tensor.detach().contiguous()
            if self._alone and tensor.untyped_storage().nbytes() != tensor.nbytes:
                values[at] = tensor.detach().clone(memory_format=torch.contiguous_format)
        return values

    def _misfit(self, at: int, tensor: torch.Tensor) -> str:
        names = (
            *self._parameters,
            *self._buffers,
            *(f"tensor {n} of the batch" for n in range(len(self._program.batch))),
        )
        shape, dtype = self._expected[at]
        return (
            f"{names[at]} is {list(tensor.shape)} of {tensor.dtype} on {tensor.device}; "
            f"the plan takes {list(shape)} of {dtype} on {self._device}"
        )

    def _failure(self, read: Callable[[Any], Any] | None, fault: Exception) -> PlanError:
        """Names the line, and not the text of PyTorch's own error, which can hold values."""
        at = self._prepared.lines.get(id(read))
        where = "" if at is None else f"line {at}, {self._program.lines[at].op}: "
        why = (
            str(fault)
            if isinstance(fault, (HostileIndexError, OpRefusedError))
            else f"PyTorch raised {type(fault).__name__}"
        )
        labels = "nll_loss" in where and isinstance(fault, IndexError)
        hint = ": class labels count from 0 to the number of classes - 1" if labels else ""
        return PlanError(f"the plan could not be run: {where}{why}{hint}")
