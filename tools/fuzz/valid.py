"""Valid calls of ATen overloads.

They are recorded while PyTorch's own operator samples run forward and backward, which takes minutes; then they are kept
in ``build/``, as text, for this version of PyTorch and of this file.
"""

from __future__ import annotations

import collections
import hashlib
import json
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
VERSION = f"{torch.__version__}-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]}"
KEPT = Path(__file__).parents[2] / "build" / f"fuzz-valid-{VERSION}.jsonl"


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
        subprocess.run([sys.executable, "-m", "tools.fuzz.valid"], cwd=KEPT.parents[1], check=True)
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


def _bags() -> torch.Tensor:
    indices, bags, none = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0])
    dense = torch.ops.aten._embedding_bag_dense_backward
    return dense(torch.ones(2, 3), indices, bags, torch.tensor([2, 2]), none, 4, False, 0, None)


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
    lambda: F.embedding(torch.tensor([1, 0, 1]), torch.ones(3, 4).requires_grad_().mul(1.0), max_norm=0.5),
    lambda: _leaf(1) * nn.init.eye_(torch.empty(3, 4)).sum(),
    lambda: _leaf(1) * _bags().sum(),
    lambda: _leaf(1) * torch.ops.aten._is_any_true(torch.tensor([True, False])),
    lambda: _leaf(1) * torch.ops.aten._is_all_true(torch.tensor([True, False])),
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


def main() -> None:
    """Records valid calls, and keeps them."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    calls = _record()
    KEPT.parent.mkdir(exist_ok=True)
    whole = KEPT.with_suffix(".new")
    whole.write_text("".join(f"{name}\t{json.dumps(_plain(kept))}\n" for name, kept in sorted(calls.items())))
    whole.rename(KEPT)


if __name__ == "__main__":
    main()
