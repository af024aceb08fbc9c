"""Random sessions: what a caller says next, drawn with a view to what its session holds.

A call starts from valid arguments, some of them bent. Its tensors are objects that the session holds, new ones, views
of either (steps, transposes, overlapping windows, broadcasts, other element types), or one object twice. In between,
objects are freed, their numbers used again, values fetched, and rules broken that no honest caller breaks.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cloister.tensor import ops, optable
from cloister.tensor.geometry import DTYPE_NAMES, DTYPES, Geometry
from cloister.tensor.ops import Of, Op, Param
from cloister.worker.arguments import decode, decode_named
from tools.fuzz.arguments import FLOATS, INDICES, INTS, drawn
from tools.fuzz.steps import Step, put
from tools.fuzz.valid import Arguments, Valid
from tools.fuzz.watching import OBJECTS, Watched

LARGEST = 4096  # elements of a tensor that is sent
ALL = 1 << 62

Steps = Generator[Step, str, Any]


class Caller:
    """Says one step after another; each is to be taken before the next is asked for."""

    def __init__(self, session: Watched, draw: random.Random, valid: Valid, names: Sequence[str]) -> None:
        self._session, self._draw, self._valid, self._names = session, draw, valid, names
        self._next = 1
        self._freed: list[int] = []

    def steps(self, start: int, calls: int) -> Steps:
        """So many calls, of the operations from ``start`` on, and what they need; how a step went is sent back."""
        for at in range(start, start + calls):
            name = self._names[at % len(self._names)]
            yield from self._between()
            yield from self._call(ops.by_name(name), drawn(self._draw, name, self._valid))
        yield from (["fetch", [id]] for id in list(self._session.held))
        yield ["free", list(self._session.held)]

    # Steps that are no calls.

    def _between(self) -> Steps:
        held = list(self._session.held)
        chance = self._draw.random()
        if len(held) > OBJECTS // 4:
            gone = self._draw.sample(held, len(held) // 2)
            self._freed += gone
            yield ["free", gone]
        elif held and chance < 0.1:
            gone = self._draw.choices(held, k=self._draw.choice([1, 2, 5]))
            self._freed += gone
            yield ["free", [*gone, self._draw.choice([1, 999_999, 2**63 - 1])]]
        elif held and chance < 0.15:
            yield ["fetch", self._draw.choices(held, k=2)]
        elif held and chance < 0.16:
            yield ["tag", self._draw.choice(held)]
        elif chance < 0.17:
            yield ["search", self._new_id(room=64)]

    def _new_id(self, room: int = 1) -> int:
        if room == 1 and self._freed and self._draw.random() < 0.05:
            return self._freed.pop()
        self._next += room
        return self._next - room

    # Calls.

    def _call(self, op: Op, arguments: Arguments) -> Steps:
        if self._draw.random() < 0.12:
            yield from self._overlap(arguments)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        by_position = True
        for param, argument in zip(op.params, op.overload._schema.arguments, strict=True):
            if param.name not in arguments:
                by_position = False
                continue
            value = yield from self._said(param, arguments[param.name])
            by_position = by_position and not argument.kwarg_only and self._draw.random() > 0.05
            if by_position:
                args.append(value)
            elif value is not None or self._draw.random() < 0.5:
                kwargs[param.name] = value
        seed = self._draw.choice([0, 1, -(2**63), 2**63 - 1]) if op.random is (self._draw.random() < 0.98) else None
        step = ["call", op.name, args, kwargs, self._outs(op), seed]
        outcome = yield step
        if outcome == "refused" and (outs := self._right_outs(op, args, kwargs)) is not None and outs != step[4]:
            yield [*step[:4], outs, seed]

    def _outs(self, op: Op) -> list[int]:
        """Ids for what the schema says is made; seldom ones that no honest caller would give."""
        outs = [self._new_id() for kind in op.returns if kind is Of.TENSOR or kind is Of.TENSORS]
        if outs and self._draw.random() < 0.02:
            outs[0] = self._draw.choice([0, outs[-1], *list(self._session.held)[:2], 2**63 - 1 - self._new_id()])
        return outs

    def _right_outs(self, op: Op, args: list[Any], kwargs: dict[str, Any]) -> list[int] | None:
        """Ids for what the executor has just worked out that the operation makes, if it got that far."""
        key: list[object] = []
        store = self._session.executor._store
        try:
            for param, value in zip(op.params, args, strict=False):
                decode(param, value, store, key)
            decode_named(op, kwargs, store, key)
        except Exception:  # noqa: BLE001 - then it was refused for that
            return None
        outline = op.outlines.get(tuple(key))
        if outline is None or len(outline.geometries) > OBJECTS // 8:
            return None
        if outline.data_dependent:
            return [self._new_id() for _ in op.returns]
        return [0 if geometry is None else self._new_id() for geometry in outline.geometries]

    def _said(self, param: Param, value: Any) -> Steps:
        """An argument as it travels; returned once the steps that it needs have been taken."""
        if self._draw.random() < 0.004:
            return self._draw.choice(["mean", -1, [[1]], 2**64 - 1, 0.5, True, [None, "x"], 10**6])
        if param.of is Of.TENSORS:
            items = list(value) if isinstance(value, list | tuple) else [value]
            said = []
            for item in items[:40]:
                said.append((yield from self._object(item)) if isinstance(item, torch.Tensor) else None)
            return said
        if isinstance(value, _Held):
            return value.id
        if isinstance(value, torch.Tensor):
            return (yield from self._object(value))
        if isinstance(value, complex):
            value = value.real
        if param.of is Of.TENSOR and isinstance(value, bool | int | float):
            return [value]
        if isinstance(value, list | tuple):
            return [item.real if isinstance(item, complex) else item for item in value]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        try:
            return param.to_wire(value)
        except Exception:  # noqa: BLE001 - a value of another kind than the schema's
            return None

    # Objects.

    def _object(self, like: torch.Tensor) -> Steps:
        """The id of an object like this tensor, or of another one."""
        held = self._session.held
        chance = self._draw.random()
        if held and chance < 0.45:
            alike = [id for id, g in held.items() if g.dtype is like.dtype and g.shape == like.shape]
            if alike and self._draw.random() < 0.9:
                return self._draw.choice(alike[-6:])
            if chance < 0.12:
                id = self._draw.choice(list(held))
                return (yield from self._view(id)) if self._draw.random() < 0.5 else id
        if like.numel() > LARGEST or like.dtype not in DTYPE_NAMES:
            like = like.new_ones([2, 3])
        if self._draw.random() < 0.35 and like.dim():
            return (yield from self._laid_out(like))
        return (yield from self._sent(like))

    def _sent(self, tensor: torch.Tensor) -> Steps:
        id = self._new_id()
        yield put(id, tensor)
        return id

    def _made(self, op: str, *args: Any, **kwargs: Any) -> Steps:
        id = self._new_id()
        yield ["call", op, list(args), kwargs, [id], None]
        return id

    def _laid_out(self, like: torch.Tensor) -> Steps:
        """The same values as a view: with steps, transposed, or at an offset within something larger."""
        how = self._draw.randrange(4)
        if how == 0 and like.dim() > 1:
            whole = yield from self._sent(like.transpose(0, -1))
            return (yield from self._made("aten::transpose.int", whole, 0, -1))
        if how == 1:
            whole = yield from self._sent(torch.stack([like, self._rubbish(like)], -1))
            return (yield from self._made("aten::select.int", whole, -1, 0))
        if how == 2:
            whole = yield from self._sent(like[:1])
            return (yield from self._made("aten::expand", whole, list(like.shape)))
        rubbish = self._rubbish(like)
        whole = yield from self._sent(torch.cat([rubbish[:1], like, rubbish[:2]]))
        start = min(len(like), 1)
        return (yield from self._made("aten::slice.Tensor", whole, 0, start, start + len(like)))

    def _rubbish(self, like: torch.Tensor) -> torch.Tensor:
        """What lies between and beside the elements of a view: indices of nothing, or numbers that are none."""
        if like.dtype.is_floating_point or like.dtype.is_complex:
            return torch.full_like(like, self._draw.choice(FLOATS[:1] + FLOATS[-3:]))
        if like.dtype is torch.bool:
            return like.logical_not()
        kind = torch.iinfo(like.dtype)
        return torch.full_like(like, min(max(self._draw.choice(INDICES), kind.min), kind.max))

    def _overlap(self, arguments: Arguments) -> Steps:
        """Makes tensors of one shape windows that overlap in one storage."""
        alike: dict[tuple[Any, ...], list[str]] = {}
        for name, value in arguments.items():
            if isinstance(value, torch.Tensor) and value.dim() and 0 < value.numel() <= LARGEST:
                alike.setdefault((tuple(value.shape), value.dtype), []).append(name)
        for names in alike.values():
            if len(names) > 1:
                like: torch.Tensor = arguments[names[0]]
                if like.dtype not in DTYPE_NAMES:
                    continue
                whole = yield from self._sent(torch.cat([like, *[arguments[name][:1] for name in names]]))
                for name in names:
                    start = self._draw.randrange(len(names))
                    id = yield from self._made("aten::slice.Tensor", whole, 0, start, start + len(like))
                    if id in self._session.held:
                        arguments[name] = _Held(id)

    def _view(self, id: int) -> Steps:
        """A view of an object, of any kind."""
        geometry, draw = self._session.held[id], self._draw
        rank = len(geometry.shape)
        dim = draw.randrange(rank) if rank else 0
        extent = geometry.shape[dim] if rank else 1
        views: list[tuple[Any, ...]] = [
            ("aten::as_strided", *_window(draw, geometry)),
            ("aten::as_strided", *_window(draw, geometry)),
            ("aten::transpose.int", dim, draw.randrange(rank) if rank else 0),
            (
                "aten::slice.Tensor",
                dim,
                draw.choice([0, 1, -2, None]),
                draw.choice([None, 2, -1, ALL]),
                draw.choice([1, 2, 3]),
            ),
            ("aten::select.int", dim, draw.randrange(extent) if extent else 0),
            ("aten::unsqueeze", draw.randrange(rank + 1)),
            ("aten::expand", [draw.choice([1, 2, 3]), *geometry.shape]),
            ("aten::unfold", dim, draw.choice([0, 1, 2]), draw.choice([1, 2])),
            ("aten::diagonal", draw.choice([-1, 0, 1])),
            ("aten::permute", draw.sample(range(rank), rank)),
            ("aten::alias",),
            ("aten::detach",),
            ("aten::view.dtype", draw.choice(list(DTYPES))),
            ("aten::_conj",),
            ("aten::_neg_view",),
            ("aten::view_as_real",),
            ("aten::view", [-1]),
        ]
        op, *args = draw.choice(views)
        made = yield from self._made(op, id, *args)
        return made if made in self._session.held else id


@dataclass(frozen=True)
class _Held:
    """Stands among a call's arguments for an object that is held already."""

    id: int


def _window(draw: random.Random, geometry: Geometry) -> tuple[list[int], list[int], int]:
    """Sizes, strides and an offset that mostly lie within a storage, whether or not elements coincide."""
    room = geometry.storage_bytes // geometry.dtype.itemsize
    sizes, strides, reach = [], [], 0
    for _ in range(draw.choice([0, 1, 1, 2, 3])):
        size, stride = draw.choice([0, 1, 2, 2, 3, 5]), draw.choice([0, 1, 1, 2, 3, 7])
        if size and reach + (size - 1) * stride < max(room, 1):
            reach += (size - 1) * stride
            sizes.append(size)
            strides.append(stride)
    if draw.random() < 0.1:
        return [*sizes, draw.choice(INTS)], [*strides, draw.choice(INTS)], draw.choice(INTS)
    return sizes, strides, draw.randrange(max(room - reach, 1))


def every(only: str = "") -> list[str]:
    """The table's overloads whose name contains a text."""
    return [name for name in optable.load() if only in name]
