"""A base as a researcher holds it: the files in which a model's frozen tensors are found again, by their values.

What a checkpoint calls a tensor and what a model that was made of it calls it are seldom the same, so names decide
nothing: a tensor is the one whose bytes are equal. Owners check files by their digests, and so need no more than which
tensor of which file it is.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from cloister.errors import ConfigurationError
from cloister.files import matching
from cloister.tensor.held import buffers_of, parameters_of
from cloister.tensor.plan.learned import learned
from cloister.wire.tensors import TensorSpec
from cloister.worker.fitting import check_tensors
from cloister.worker.plans import Plan, check_plan
from cloister.worker.values import sendable, spec_of
from cloister.worker.weights import Weights

_SHARDS: Final = 1024
_BLOCK: Final = 1 << 24


class Base:
    """The files of a base, opened. Nothing is read before it is needed, and nothing is read into memory whole.

    ``Base("gpt2/model.safetensors")`` names a file; of a folder, all files that end in ``.safetensors`` are taken.
    Whoever publishes a checkpoint often tells the SHA-256 of its files, with which ``digests`` can be compared.

    Raises:
        ConfigurationError: there are no such files.
        DataSetError: a file cannot be read, or is damaged.
    """

    def __init__(self, *paths: str | os.PathLike[str]) -> None:
        files = [file for path in map(Path, paths) for file in _files(path)]
        if not files:
            raise ConfigurationError("a base is made of .safetensors files: name them, or a folder with some")
        self._weights = [Weights(file) for file in files]
        self._by_spec: dict[TensorSpec, list[tuple[Weights, str]]] = defaultdict(list)
        for weights in self._weights:
            for name, spec in weights.specs.items():
                self._by_spec[spec].append((weights, name))

    @cached_property
    def digests(self) -> Mapping[Path, bytes]:
        """SHA-256 of each file, 32 bytes, in the order of the files. They are read whole for that, once."""
        return {weights.path: weights.digest() for weights in self._weights}

    def toml(self, name: str) -> str:
        """The ``[[bases]]`` table for charter.toml, by which owners know these files."""
        files = "".join(f'  "{digest.hex()}",  # {path.name}\n' for path, digest in self.digests.items())
        return f'[[bases]]\nname = "{name}"\nfiles = [\n{files}]\n'

    def find(self, name: str, tensor: torch.Tensor) -> tuple[bytes, str] | None:
        """Where a model's tensor is: the SHA-256 of a file, and what it is called there. Of several that are equal, it
        is the one whose name ends most alike. None: it is in none of the files."""
        here = sendable(tensor)
        likely = sorted(self._by_spec.get(spec_of(tensor), ()), key=lambda each: (-_alike(each[1], name), each[1]))
        for weights, known in likely:
            if _equal(weights.tensor(known), here):
                return self.digests[weights.path], known
        return None


def write_base(model: nn.Module, plan: Plan, path: str | os.PathLike[str], *, beside: Base | None = None) -> None:
    """Writes what a plan does not learn of a model, as a safetensors file that owners are given: for a base that is
    published nowhere, or was published with other element types. ``Base`` opens it.

    Args:
        beside: files that owners have anyway, of which nothing is written again: a published checkpoint of a model that
            makes large tensors of its own, such as masks. Open both: ``Base(checkpoint, path)``.

    Raises:
        ConfigurationError: nothing is frozen, or all is in ``beside``; the file is there already or cannot be written.
        PlanError: the plan is another model's.
    """
    frozen = _once(
        {
            name: sendable(tensor)
            for name, tensor in frozen_of(model, plan).items()
            if beside is None or beside.find(name, tensor) is None
        }
    )
    if not frozen:
        raise ConfigurationError(
            "the plan learns all of the model: there is no base to write"
            if beside is None
            else "all that the plan does not learn is in the files beside: there is nothing to write"
        )
    if Path(path).exists():
        raise ConfigurationError(f"{path} exists and is not overwritten; name another file")
    try:
        save_file(frozen, path, {"format": "pt"})
    except (OSError, SafetensorError) as fault:
        raise ConfigurationError(f"{path} cannot be written: {fault}") from None


def frozen_of(model: nn.Module, plan: Plan) -> dict[str, torch.Tensor]:
    """The tensors of a model that a plan reads and neither learns nor writes, by the plan's names for them.

    Raises:
        ConfigurationError, PlanError: it is no plan, or another model's.
    """
    check_plan(plan)
    held = {**parameters_of(model), **buffers_of(model)}
    check_tensors(plan, parameters_of(model), buffers_of(model))
    changed = learned(plan.program).names | written(plan)
    return {each.names[0]: held[each.names[0]].detach() for each in plan.program.held if each.names[0] not in changed}


def written(plan: Plan) -> frozenset[str]:
    """The buffers that a plan writes, of whatever type, by the first of each one's names."""
    found = zip(plan.program.buffers, plan.program.updates, strict=True)
    return frozenset(each.names[0] for each, value in found if value is not None)


def _once(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors without those that are equal to one before: by its values, each is found again."""
    kept: dict[str, torch.Tensor] = {}
    by_spec: dict[TensorSpec, list[torch.Tensor]] = defaultdict(list)
    for name, tensor in tensors.items():
        alike = by_spec[spec_of(tensor)]
        if not any(_equal(tensor, other) for other in alike):
            alike.append(tensor)
            kept[name] = tensor
    return kept


def _files(path: Path) -> list[Path]:
    return matching(path, "*.safetensors", limit=_SHARDS) if path.is_dir() else [path]


def _alike(one: str, other: str) -> int:
    """How many of their last words two names share, leaving out the words that wrappers put in between."""
    words = [[word for word in name.split(".") if word != "base_layer"] for name in (one, other)]
    count = 0
    for here, there in zip(*map(reversed, words), strict=False):
        if here != there:
            break
        count += 1
    return count


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of one element type and shape have the same bytes; a difference is mostly found at once."""
    here, there = (each.reshape(-1).view(torch.uint8) for each in (one, other))
    return all(
        torch.equal(here[at : at + _BLOCK], there[at : at + _BLOCK]) for at in range(0, max(1, len(here)), _BLOCK)
    )
