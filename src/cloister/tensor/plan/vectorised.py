"""A plan for many models at once, each with a batch of its own, with ``torch.func.vmap``.

What the plan changes, each model has of its own. The rest of a model, such as the base that adapters are trained on, is
the same for all, and there once.

What a plan computes is then equal within rounding. Three things are not the same there, and make a plan unfit for it
unless they can be seen to first. Random numbers come from one seed, not from one for each model. An operation that
PyTorch has no vectorised form of would run model by model, slowly. And indices: no check that reads values can run
within ``vmap``, and where PyTorch lays the tables of all models end to end, an index out of range reads, or writes, a
row of another model. So indices are looked at before a step, which takes that they are elements of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from cloister.errors import PlanError
from cloister.tensor.geometry import DTYPES
from cloister.tensor.plan import safety
from cloister.tensor.plan.checking import Checked, shapes_of
from cloister.tensor.plan.learned import changed
from cloister.tensor.plan.operands import references
from cloister.tensor.plan.program import Program
from cloister.tensor.plan.replay import Outcome, Replay
from cloister.tensor.plan.shapes import Shapes, peak_of

_INDICES: Final = frozenset(
    "index indices target targets offsets offset2bag bag_size maximum_indices row_indices lengths input_lengths "
    "target_lengths batch_sizes pivots LU_pivots".split()
)
"""What arguments are called whose elements say where to read or write."""
_SELF_CHECKING: Final = tuple(
    f"aten::{name}" for name in ("gather", "scatter", "index_select", "index.Tensor", "index_put", "index_add")
)
"""Operations, by the beginnings of their names, whose kernels check every index against the model's own tensor within
``vmap`` too: the models are a dimension of their own there, which no index reaches."""
_TABLES: Final = {
    "aten::embedding": ("weight", 0),
    "aten::nll_loss_forward": ("self", -1),
    "aten::nll_loss_backward": ("self", -1),
    "aten::nll_loss2d_forward": ("self", 1),
    "aten::nll_loss2d_backward": ("self", 1),
}
"""What else follows indices: the argument, and which of its extents they count."""
_POOLS: Final = ("aten::max_pool2d_with_indices_backward", "aten::max_pool3d_with_indices_backward")


class _Look(NamedTuple):
    """What is asked of a tensor of the batch: values from 0 and below ``high``, or ``ignored``."""

    place: int
    high: int
    ignored: int | None


class Vectorised:
    """A plan made ready for batches of one size on one device, each with a model of its own.

    ``bytes_each`` is what a step holds at once for each model, in bytes, inputs included; what all share is not.

    Raises:
        PlanError: it cannot be vectorised, does not fit batches of that size, or would take more than ``memory_bytes``
            for each model.
    """

    def __init__(
        self, program: Program, checked: Checked, *, size: int, device: torch.device, memory_bytes: int
    ) -> None:
        _refuse_random(program, checked)
        shapes = shapes_of(program, checked, size)
        own = _own(program, checked)
        self.bytes_each: Final = peak_of(program, checked.operations, checked.lifetimes, shapes.geometries, among=own)
        if self.bytes_each > memory_bytes:  # before anything is run
            raise PlanError(f"a step takes {self.bytes_each:,} bytes for each model, more than {memory_bytes:,}")
        self._program = program
        self._changed: Final = changed(program)
        self._looks, seen = _looks(program, checked, shapes, own)
        for at in shapes.watched - seen:
            raise PlanError(f"{_line(program, at)} needs a look at values at each step")
        # What has been looked at, or shown, needs no look within vmap, where there can be none.
        free = replace(shapes, watched=frozenset(), attested=frozenset())
        self._replay = Replay(program, checked, size=size, device=device, shapes=free, mapped=True)
        self._try(size, device)

    def run(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: Sequence[Tensor]) -> Outcome:
        """One step: as ``Plan.step``, where each tensor that the plan changes, each of the batch, and each made has a
        first dimension more, the models'. The outcome has those buffers only that the plan changes.

        Raises:
            PlanError: tensors that do not fit the plan, indices out of range, or an operation that failed.
        """
        for place, high, ignored in self._looks:
            least, most = _range(batch[place], ignored)
            if least < 0 or most >= high:
                raise PlanError(f"tensor {place} of the batch holds indices that are not all from 0 to {high - 1}")
        return self._mapped(parameters, buffers, batch)

    def unfit(self, batch: Sequence[Tensor]) -> Tensor:
        """Whose batches hold indices out of range: a flag for each model, by which one sees that without an error."""
        found = torch.zeros(len(batch[0]), dtype=torch.bool, device=batch[0].device)
        for place, high, ignored in self._looks:
            values = batch[place]
            wrong = (values < 0) | (values >= high)
            wrong = wrong if ignored is None else wrong & (values != ignored)
            found |= wrong.reshape(len(found), values[0].numel()).any(1)
        return found

    def _mapped(
        self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: Sequence[Tensor]
    ) -> Outcome:
        trained = {name: parameters[name] for name in self._changed.parameters}
        written = {name: buffers[name] for name in self._changed.buffers}

        def step(some: dict[str, Tensor], others: dict[str, Tensor], rows: tuple[Tensor, ...]) -> Outcome:
            found = self._replay.run({**parameters, **some}, {**buffers, **others}, rows, seed=0, step=0)
            return found._replace(buffers={name: found.buffers[name] for name in self._changed.buffers})

        found: Outcome = torch.func.vmap(step)(trained, written, tuple(batch))
        return found

    def _try(self, size: int, device: torch.device) -> None:
        """Runs it for two models, all of whose values are 0, to see that PyTorch can."""

        def blank(dtype: str, *shape: int) -> Tensor:
            return torch.zeros(shape, dtype=DTYPES[dtype], device=device)

        names = self._changed.names
        held = {
            each.names[0]: blank(each.dtype, *((2,) if each.names[0] in names else ()), *each.shape)
            for each in self._program.held
        }
        batch = [blank(each.dtype, 2, size, *each.row) for each in self._program.batch]
        try:
            with _no_loops():
                self._mapped(held, held, batch)
        except PlanError as fault:
            raise PlanError(f"{fault}, in its vectorised form") from fault


def _refuse_random(program: Program, checked: Checked) -> None:
    for at, op in enumerate(checked.operations):
        if op.random:
            raise PlanError(f"{_line(program, at)} draws random numbers, and each model's come from a seed of its own")


def _own(program: Program, checked: Checked) -> set[int]:
    """The values that differ from model to model: what the plan changes, the batch, and what is made of either."""
    first = len(program.held)
    own = {at for at, after in enumerate(program.after) if after is not None}
    own.update(range(first, first + len(program.batch)))
    following = program.inputs
    for op, line in zip(checked.operations, program.lines, strict=True):
        if any(value in own for _, value in references(op, line.args, line.named)):
            own.update(range(following, following + line.makes))
        following += line.makes
    return own


def _looks(program: Program, checked: Checked, shapes: Shapes, own: set[int]) -> tuple[set[_Look], set[int]]:
    """What must be asked of the batch, and the lines whose indices are in range then, or anyway. ``own``: the values
    that differ from model to model."""
    looks: set[_Look] = set()
    seen: set[int] = set()
    for at, (op, line) in enumerate(zip(checked.operations, program.lines, strict=True)):
        used = [(param.name, value) for param, value in references(op, line.args, line.named)]
        if safety.installed().leaves_gaps(op):
            raise PlanError(f"{_line(program, at)} hands out memory that must be written first")
        indices = [value for name, value in used if name in _INDICES and value in own and _whole(shapes, value)]
        if indices and _follows(op.name, at, shapes):
            looks |= {_look(program, checked, shapes, at, value) for value in indices}
            seen.add(at)
        elif at in shapes.attested:
            seen.add(at)
    return looks, seen


def _follows(name: str, at: int, shapes: Shapes) -> bool:
    """Whether an operation may follow indices out of its model's tensors."""
    return not name.startswith(_SELF_CHECKING) and not (name in _POOLS and at in shapes.attested)


def _look(program: Program, checked: Checked, shapes: Shapes, at: int, value: int) -> _Look:
    named = checked.proofs.named(at)
    place = checked.proofs.input_of(value)
    first = len(program.held)
    if place is None or not first <= place < first + len(program.batch):
        raise PlanError(f"{_line(program, at)} follows indices that are computed on the way")
    classes = _extent(program.lines[at].op, named, shapes)
    if classes is None:
        raise PlanError(f"{_line(program, at)} follows indices unchecked")
    return _Look(place - first, classes, named.get("ignore_index"))


def _extent(name: str, named: Mapping[str, Any], shapes: Shapes) -> int | None:
    """Below what an operation's indices must be; None if that is not known."""
    if name == "aten::embedding_dense_backward":
        rows = named["num_weights"]
        return rows if type(rows) is int else None
    table, dim = _TABLES.get(name, ("", 0))
    geometry = shapes.geometries[named[table]] if table else None
    return geometry.shape[dim] if geometry is not None and geometry.shape else None


def _whole(shapes: Shapes, value: int) -> bool:
    geometry = shapes.geometries[value]
    dtype = torch.bool if geometry is None else geometry.dtype
    return not (dtype.is_floating_point or dtype.is_complex or dtype is torch.bool)


def _range(values: Tensor, ignored: int | None) -> tuple[int, int]:
    """The least and the greatest value, those that are ``ignored`` left out."""
    if ignored is not None:
        values = values[values != ignored]
    if not values.numel():
        return 0, -1
    least, most = torch.aminmax(values)
    return int(least), int(most)


def _line(program: Program, at: int) -> str:
    return f"line {at}, {program.lines[at].op},"


@contextmanager
def _no_loops() -> Iterator[None]:
    """Within it, an operation without a vectorised form fails; PyTorch would else run it model by model."""
    functorch: Any = torch._C._functorch
    before = functorch._is_vmap_fallback_enabled()
    functorch._set_vmap_fallback_enabled(False)
    try:
        yield
    finally:
        functorch._set_vmap_fallback_enabled(before)
