"""The registered data sets, as one session finds them. It imports torch, so only executors import this module.

A session works on memory of its own: an ``.npz`` array is read into it, a ``.safetensors`` tensor is mapped
copy-on-write, and a sealed file is opened there, a piece at a time, and written nowhere. Whatever a session does to its
data sets, the owner's file and every other session's view stay as they were.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

import torch
from safetensors import SafetensorError, safe_open

from cloister.errors import InteractiveRefusedError, WorkerError
from cloister.node.data_files import DataSetEntry, locate, open_data
from cloister.wire.tensors import TensorSpec
from cloister.worker.data.errors import DAMAGED
from cloister.worker.data.files import load_npz
from cloister.worker.values import as_bytes, empty

_log: Final = logging.getLogger("cloister.node.session.data_sets")


class DataSets:
    """The data sets of a node, loaded when first found. Implements ``cloister.worker.executor.DataSets``."""

    def __init__(self, entries: Sequence[DataSetEntry], *, device: str = "cpu") -> None:
        self._entries = tuple(entries)
        self._device = device
        self._loaded: dict[int, torch.Tensor] = {}

    def search(self, tags: Sequence[str]) -> Sequence[tuple[tuple[str, ...], torch.Tensor]]:
        """The data sets that carry all of ``tags``, in the order of node.toml. The same tensor is found every time.

        Raises:
            InteractiveRefusedError: data sets match, and all of them are closed to interactive use.
            WorkerError: a file no longer holds what it held when the node started, or is locked.
        """
        wanted = set(tags)
        matching = [index for index, entry in enumerate(self._entries) if wanted <= set(entry.tags)]
        opened = [index for index in matching if self._entries[index].unsafe_interactive]
        if matching and not opened:
            tags = self._entries[matching[0]].tags
            raise InteractiveRefusedError(
                f"the data set tagged {_listed(tags)} is closed to interactive use: working on it operation by "
                "operation could carry its rows away. Run a study on it instead, where only aggregates come out. Its "
                "owner can open it to a researcher trusted like the owner, by writing unsafe_interactive = true beside "
                "it in node.toml"
            )
        return [(self._entries[index].tags, self._tensor(index)) for index in opened]

    def _tensor(self, index: int) -> torch.Tensor:
        tensor = self._loaded.get(index)
        if tensor is None:
            entry = self._entries[index]
            if entry.spec is None:
                raise WorkerError(f"the data set tagged {_listed(entry.tags)} is locked: {entry.locked}")
            try:
                tensor = _load(Path(entry.path), entry.tensor, entry.spec, entry.key)
            except (*DAMAGED, SafetensorError, MemoryError) as fault:
                _log.error("data set %s: cannot read %s: %s", _listed(entry.tags), entry.path, type(fault).__name__)
                raise WorkerError(f"the data set tagged {_listed(entry.tags)} cannot be read at its node") from None
            if tensor is None:
                _log.error("data set %s: %s changed since the node started", _listed(entry.tags), entry.path)
                raise WorkerError(f"the data set tagged {_listed(entry.tags)} changed since its node started")
            tensor = self._loaded[index] = tensor.to(self._device)
        return tensor


def _load(path: Path, name: str, spec: TensorSpec, key: bytes | None) -> torch.Tensor | None:
    """Loads a tensor from its file; None if it does not fit ``spec`` any more, and then only headers are read."""
    with open_data(path, key=key) as file:
        found, start = locate(file, path=path, tensor=name)
        if found != spec:
            return None
        if start is None:
            return load_npz(file, name, memory_bytes=spec.nbytes())
        if key is not None:
            return _load_sealed(file, spec, start)
    with safe_open(path, framework="pt") as mapped:
        tensor: torch.Tensor = mapped.get_tensor(name)
        return tensor


def _load_sealed(file: IO[bytes], spec: TensorSpec, start: int) -> torch.Tensor:
    """A tensor from a sealed ``.safetensors`` file, whose library reads files only."""
    tensor = empty(spec)
    view = as_bytes(tensor)
    file.seek(start)
    if file.readinto(view) != len(view):  # type: ignore[attr-defined]
        raise ValueError("the file ends within the tensor")
    return tensor


def _listed(tags: Sequence[str]) -> str:
    return ", ".join(tags)
