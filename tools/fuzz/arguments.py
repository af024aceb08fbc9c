"""Valid calls of ATen overloads, and how their arguments are bent.

Valid calls are recorded while PyTorch's own operator samples run forward and backward, which takes minutes; they are
kept in ``build/``, as text, for this version of PyTorch.
"""

from __future__ import annotations

import collections
import json
import random
import subprocess
import sys
import types
import unittest
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from cloister.tensor import optable
from cloister.tensor.geometry import DTYPE_NAMES, DTYPES
from cloister.tensor.ops import MEMORY_FORMATS
from tools.fuzz import steps

Arguments = dict[str, Any]
Valid = Mapping[str, list[Arguments]]

CALLS_AN_OVERLOAD = 12
KEPT = Path(__file__).parents[2] / "build" / f"fuzz-valid-{torch.__version__}.jsonl"


class Recorder(TorchDispatchMode):
    """Keeps up to ``CALLS_AN_OVERLOAD`` small calls of every overload of the table that runs under it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, list[Arguments]] = collections.defaultdict(list)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = name_of(func)
        if (
            name in optable.load()
            and len(self.calls[name]) < CALLS_AN_OVERLOAD
            and sum(t.numel() for t in tensors((args, kwargs))) < 2000
        ):
            bound = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | (kwargs or {})
            self.calls[name].append(tree_map_only(torch.Tensor, lambda t: t.detach().clone(), bound))
        return func(*args, **(kwargs or {}))


def name_of(func: Any) -> str:
    schema = func._schema
    return schema.name + (f".{schema.overload_name}" if schema.overload_name else "")


def tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class _Kept(Mapping[str, list[Arguments]]):
    """Recorded calls, read when they are asked for."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def __getitem__(self, name: str) -> list[Arguments]:
        restored: list[Arguments] = _restored(json.loads(self._texts[name]))
        return restored

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


def few() -> Valid:
    """The valid calls of a few models that this file makes."""
    recorder = Recorder()
    for make in EXTRAS:
        with recorder:
            make().sum().backward()
    return recorder.calls


def many() -> Valid:
    """Valid calls by overload, of PyTorch's operator samples as well; recorded the first time."""
    if not KEPT.exists():
        print("recording valid calls, which takes a few minutes the first time", flush=True)
        # In a process of its own: the samples' module changes settings of the one that loads it.
        subprocess.run([sys.executable, "-m", "tools.fuzz.arguments"], cwd=KEPT.parents[1], check=True)
    return _Kept(dict(line.split("\t") for line in KEPT.read_text().splitlines()))


def _record() -> dict[str, list[Arguments]]:
    # PyTorch's samples live beside its tests and name this package's class, and nothing else of it.
    stand_in: Any = types.ModuleType("expecttest")
    stand_in.TestCase = unittest.TestCase
    sys.modules.setdefault("expecttest", stand_in)
    from torch.testing._internal.common_methods_invocations import op_db

    recorder = Recorder()
    recorder.calls.update(few())
    for entry in op_db:
        for dtype in (torch.float32, torch.int64, torch.complex64):
            if dtype in entry.dtypes:
                _record_samples(recorder, entry, dtype)
    return recorder.calls


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, torch.Tensor):
        return {"$tensor": steps.put(0, value)[2:]} if value.dtype in DTYPE_NAMES else None
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    for kind, names in ((torch.dtype, DTYPES), (torch.memory_format, MEMORY_FORMATS)):
        if isinstance(value, kind):
            return next(({"$named": name} for name, known in names.items() if known is value), None)
    if isinstance(value, complex):
        return value.real
    return value if isinstance(value, bool | int | float | str) else None


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(item) for item in value]
    if isinstance(value, dict) and "$tensor" in value:
        return steps.value(*value["$tensor"])
    if isinstance(value, dict) and "$named" in value:
        return DTYPES.get(value["$named"], MEMORY_FORMATS.get(value["$named"]))
    return {name: _restored(item) for name, item in value.items()} if isinstance(value, dict) else value


def _leaf(*shape: int) -> torch.Tensor:
    return torch.randn(shape, requires_grad=True)


def _ctc_loss(lengths: Callable[[list[int]], Any]) -> torch.Tensor:
    scores, targets = _leaf(6, 2, 5).log_softmax(2), torch.randint(1, 5, (2, 3))
    return F.ctc_loss(scores, targets, lengths([6, 5]), lengths([3, 2]))


def _images(mode: str) -> torch.Tensor:
    return F.interpolate(_leaf(1, 2, 6, 5), scale_factor=1.5, mode=mode, antialias=True)


# What the operator samples lack, or have only in sizes too large to keep.
EXTRAS: list[Callable[[], torch.Tensor]] = [
    lambda: _ctc_loss(list),
    lambda: _ctc_loss(torch.tensor),
    lambda: _images("bilinear") + _images("bicubic") + _images("lanczos"),
    lambda: F.affine_grid(_leaf(1, 2, 3), [1, 2, 3, 4]),
    lambda: torch.conv_tbc(_leaf(5, 2, 3), _leaf(2, 3, 4), _leaf(4)),
    lambda: nn.EmbeddingBag(6, 4, mode="max", padding_idx=0)(torch.randint(0, 6, (3, 4))),
    lambda: nn.EmbeddingBag(6, 4, mode="sum")(torch.randint(0, 6, (8,)), torch.tensor([0, 3, 3]), _leaf(8)),
    lambda: nn.FractionalMaxPool3d(2, output_size=2)(_leaf(1, 2, 5, 5, 5)),
    lambda: nn.LSTM(3, 4, 2, bidirectional=True)(_leaf(5, 2, 3))[0],
    lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))(_leaf(2, 4)),
    lambda: nn.utils.parametrizations.orthogonal(nn.Linear(4, 4))(_leaf(2, 4)),
    lambda: torch.slice_scatter(_leaf(5, 3), _leaf(2, 3), 0, 1, 3),
]


def _record_samples(recorder: Recorder, entry: Any, dtype: torch.dtype) -> None:
    differentiable = entry.supports_autograd and dtype is not torch.int64
    try:
        for _, sample in zip(range(20), entry.sample_inputs("cpu", dtype, requires_grad=differentiable), strict=False):
            with recorder:
                out = entry.op(sample.input, *sample.args, **sample.kwargs)
                sums = [t.abs().sum() for t in tensors(out) if t.requires_grad]
                if sums:
                    torch.stack([s.double() for s in sums]).sum().backward()
                if entry.inplace_variant and tensors(sample.input):
                    entry.inplace_variant(tensors(sample.input)[0].detach().clone(), *sample.args, **sample.kwargs)
    except Exception:  # noqa: BLE001 - a sample that torch itself refuses is no seed
        return


INTS = [
    -(2**63), -(2**31) - 1, -1000, -3, -2, -1, 0, 1, 2, 3, 4, 5, 7, 100, 1000,
    2**31 - 1, 2**31, 2**32 + 5, 2**40, 2**62, 2**63 - 1, 2**64 - 1,
]  # fmt: skip
INDICES = [-(2**63), -(2**40), -(2**31), -5000, -2, -1, 0, 1, 2, 3, 5, 17, 1000, 2**31 - 1, 2**40, 2**63 - 1]
FLOATS = [0.0, -1.0, 1.0, 0.5, 2.0, 1e-300, 1e300, float("inf"), float("-inf"), float("nan")]
UNBENT = ("Optional[Device]", "Optional[Layout]", "Optional[Generator]")  # a worker fixes them itself
KINDS = sorted(DTYPES.values(), key=str)


def straight(draw: random.Random, name: str, valid: Valid) -> Arguments:
    """Arguments of an overload: of a valid call, or where none is known, of the types that its schema names."""
    if calls := valid.get(name):
        return dict(tree_map_only(torch.Tensor, torch.clone, dict(draw.choice(calls))))
    schema = packet(name)._schema
    arguments = {a.name: invent(draw, str(a.real_type)) for a in schema.arguments if not a.has_default_value()}
    if draw.random() < 0.7:
        _make_alike(draw, arguments)
    return arguments


def drawn(draw: random.Random, name: str, valid: Valid) -> Arguments:
    """Arguments of an overload, some of them bent."""
    schema, arguments = packet(name)._schema, straight(draw, name, valid)
    for _ in range(draw.choice([0, 0, 0, 1, 1, 1, 2, 3])):
        argument = draw.choice(schema.arguments)
        kind = str(argument.real_type)
        if (argument.name in arguments or draw.random() < 0.3) and kind not in UNBENT:
            old = arguments.get(argument.name)
            try:
                bent = bend(draw, name, argument.name, kind, invent(draw, kind) if old is None else old)
            except (RuntimeError, IndexError, ValueError, TypeError, OverflowError):
                continue  # a bend that this tensor does not take
            arguments[argument.name] = bent
    return arguments


def _make_alike(draw: random.Random, arguments: Arguments) -> None:
    """Gives all tensors one shape, and mostly one element type."""
    first = next((value for value in arguments.values() if isinstance(value, torch.Tensor)), None)
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor) and first is not None and value is not first:
            dtype = first.dtype if draw.random() < 0.8 else value.dtype
            arguments[name] = torch.rand(first.shape).mul(4).to(dtype)


def packet(name: str) -> Any:
    base, _, overload = name.removeprefix("aten::").partition(".")
    return getattr(getattr(torch.ops.aten, base), overload or "default")


def invent(draw: random.Random, kind: str) -> Any:
    """A harmless value of a schema's type."""
    if kind.startswith("Optional["):
        return invent(draw, kind[9:-1])
    if kind.startswith("List["):
        return [invent(draw, kind[5:-1]) for _ in range(draw.choice([1, 2, 2, 3]))]
    if kind == "Tensor":
        shape = [draw.choice([1, 2, 3, 4]) for _ in range(draw.choice([0, 1, 2, 2, 3, 4]))]
        torch.manual_seed(draw.randrange(2**31))
        if draw.random() < 0.35:
            return torch.randint(0, 4, shape)
        return torch.rand(shape)
    made: dict[str, Callable[[], Any]] = {
        "int": lambda: draw.choice([0, 1, 2, 3]),
        "float": lambda: draw.choice([0.5, 1.0]),
        "number": lambda: draw.choice([1, 0.5, 2]),
        "bool": lambda: draw.random() < 0.5,
        "ScalarType": lambda: torch.float32,
    }
    return made.get(kind, lambda: None)()


def bend(draw: random.Random, name: str, argument: str, kind: str, value: Any) -> Any:
    """``value`` made hostile, still of its schema's type."""
    optional = kind.startswith("Optional[")
    kind = kind[9:-1] if optional else kind
    if optional and (value is None or draw.random() < 0.15):
        return None
    if kind.startswith("List["):
        return bend_list(draw, name, argument, kind[5:-1], list(value) if isinstance(value, (list, tuple)) else [value])
    if isinstance(value, torch.Tensor):
        return bend_tensor(draw, value)
    if kind == "str":
        return draw.choice(sorted(optable.load()[name].strings[argument]))
    if kind == "number":
        return draw.choice([draw.choice(INTS), draw.choice(FLOATS), True, complex(1, 2)])
    if kind == "float":
        return draw.choice(FLOATS)
    if kind == "bool":
        return not value
    if kind == "ScalarType":
        return draw.choice(KINDS)
    if kind == "int":
        return value + draw.choice([-1, 1]) if draw.random() < 0.3 else draw.choice(INTS)
    return value


def bend_list(draw: random.Random, name: str, argument: str, kind: str, values: list[Any]) -> list[Any]:
    how = draw.randrange(6)
    if how == 0:
        return values[:-1]
    if how == 1:
        return values + values[-1:]
    if how == 2 and kind == "int":
        return [draw.choice(INTS)] * len(values)
    if values:
        at = draw.randrange(len(values))
        old = values[at]
        values[at] = bend(draw, name, argument, kind, invent(draw, kind) if old is None else old)
    return values


def bend_tensor(draw: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.dtype.is_floating_point and not tensor.dtype.is_complex and draw.random() < 0.5 and tensor.numel():
        info = torch.iinfo(tensor.dtype) if tensor.dtype is not torch.bool else torch.iinfo(torch.uint8)
        hostile = min(max(draw.choice(INDICES), info.min), info.max)
        if draw.random() < 0.5:
            tensor = torch.full_like(tensor, hostile)
        else:
            tensor.view(-1)[draw.randrange(tensor.numel())] = hostile
        return tensor
    return draw.choice(BENDS)(draw, tensor)


def _resize(draw: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    shape = list(tensor.shape)
    if not shape:
        return tensor.new_full([draw.choice([0, 1, 2, 5])], 1)
    at = draw.randrange(len(shape))
    shape[at] = draw.choice([0, 1, max(shape[at] - 1, 0), shape[at] + 1, shape[at] * 3 + 2])
    flat = tensor.reshape(-1)
    count = 1
    for extent in shape:
        count *= extent
    repeated = flat.repeat(count // max(flat.numel(), 1) + 1) if flat.numel() else tensor.new_ones([count])
    return repeated[:count].clone().reshape(shape)


def _hostile_float(draw: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.dtype.is_floating_point:
        return tensor
    return torch.full_like(tensor, draw.choice(FLOATS))


BENDS: list[Callable[[random.Random, torch.Tensor], torch.Tensor]] = [
    _resize,
    _resize,
    _resize,
    _hostile_float,
    lambda draw, t: t.to(draw.choice(KINDS)),
    lambda draw, t: t.unsqueeze(draw.randrange(t.dim() + 1)),
    lambda draw, t: t.select(draw.randrange(t.dim()), 0).clone() if t.dim() and min(t.shape) else t,
    lambda draw, t: t.mT if t.dim() > 1 else t,
    lambda draw, t: t[..., :1].expand(t.shape) if t.dim() and t.shape[-1] else t,
    lambda draw, t: t.new_empty([0]),
    lambda draw, t: t.new_ones([]),
    lambda draw, t: torch.stack([t, t], -1).select(-1, 0),
    lambda draw, t: t.new_ones([draw.choice([1, 2, 3, 8]) for _ in range(draw.choice([1, 2, 3, 4, 5, 6]))]),
]


def main() -> None:
    """Records valid calls, and keeps them."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    calls = _record()
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text("".join(f"{name}\t{json.dumps(_plain(kept))}\n" for name, kept in sorted(calls.items())))


if __name__ == "__main__":
    main()
