"""A run kept in a file, from which it is resumed to the same bits: safetensors, with notes beside the tensors.

The file holds what a run needs between rounds: the model's vector in full precision, the strategy's state, the buffers
that are not in the vector, and the history. Optimizers begin anew in each round and need no place in it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cloister.aggregation.strategies import State
from cloister.aggregation.vectors import Vector
from cloister.errors import ConfigurationError
from cloister.study.history import Round
from cloister.worker.data.headers import check_safetensors
from cloister.worker.values import sendable

_FORMAT: Final = "cloister run 1"
_HEADER_BYTES: Final = 1 << 26
"""The longest header, which holds the history."""
_OTHER: Final = "other "


@dataclass(frozen=True, eq=False)
class Progress:
    """A run between two rounds. It is a value, so that an interrupted round leaves nothing half done."""

    vector: Vector
    state: State
    others: Mapping[str, torch.Tensor]
    rounds: tuple[Round, ...] = field(default=())
    homes: Mapping[str, Mapping[str, torch.Tensor]] = field(default_factory=dict)
    """The buffers that stay with each owner, by its name."""


class _Notes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The notes beside the tensors."""

    format: str
    settings: dict[str, str]
    rounds: tuple[Round, ...]


def write(path: Path, progress: Progress, *, settings: Mapping[str, str]) -> None:
    """Replaces the file, or leaves the one that was there: a reader finds all of one of them.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    # In hexadecimal, because notes have to be text, and JSON has no NaN, which a metric may be.
    notes = msgspec.msgpack.encode(_Notes(_FORMAT, dict(settings), progress.rounds)).hex()
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(_tensors(progress), draft, {"run": notes})
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    except (OSError, SafetensorError) as fault:
        raise ConfigurationError(f"the checkpoint {path} cannot be written: {fault}") from fault
    finally:
        draft.unlink(missing_ok=True)


def read(path: Path, *, start: Progress, settings: Mapping[str, str]) -> Progress:
    """Reads a run's progress. ``start``: its beginning, whose tensors the file must fit.

    Raises:
        ConfigurationError: the file cannot be read, or is of a run with other settings; the message names them.
    """
    try:
        check_safetensors(path, limit=_HEADER_BYTES)
        with safe_open(path, framework="pt") as file:
            notes = msgspec.msgpack.decode(bytes.fromhex((file.metadata() or {}).get("run", "")), type=_Notes)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (OSError, ValueError, SafetensorError, msgspec.MsgspecError) as fault:
        raise ConfigurationError(f"{path} is no checkpoint that can be read; move it away to begin anew") from fault
    if notes.format != _FORMAT:
        raise ConfigurationError(f"{path} is of the format {notes.format!r}; this version reads {_FORMAT!r}")
    names = sorted({*settings, *notes.settings})
    changed = [name for name in names if settings.get(name) != notes.settings.get(name)]
    if changed:
        raise ConfigurationError(
            f"{path} is of a run with another {', another '.join(changed)}; go on with the same, or name another file"
        )
    _check(path, tensors, start)
    others = {name: tensors[f"{_OTHER}{name}"].to(each.device) for name, each in start.others.items()}
    averages = {name: tensors[name].numpy() for name in ("momentum", "squares") if name in tensors}
    homes = {
        owner: {name: tensors[_home(owner, name)].to(each.device) for name, each in held.items()}
        for owner, held in start.homes.items()
    }
    return Progress(tensors["vector"].numpy(), State(len(notes.rounds), **averages), others, notes.rounds, homes)


def _tensors(progress: Progress) -> dict[str, torch.Tensor]:
    averages = {"momentum": progress.state.momentum, "squares": progress.state.squares}
    return {
        "vector": torch.from_numpy(progress.vector),
        **{name: torch.from_numpy(average) for name, average in averages.items() if average is not None},
        **{f"{_OTHER}{name}": sendable(each).clone() for name, each in progress.others.items()},
        **{
            _home(owner, name): sendable(each).clone()
            for owner, held in progress.homes.items()
            for name, each in held.items()
        },
    }


def _home(owner: str, name: str) -> str:
    return f"home {owner.encode().hex()} {name}"


def _check(path: Path, tensors: Mapping[str, torch.Tensor], start: Progress) -> None:
    found, expected = (
        {name: (each.shape, each.dtype) for name, each in held.items()} for held in (tensors, _tensors(start))
    )
    if found != expected:
        raise ConfigurationError(f"{path} does not hold the tensors of this run; move it away to begin anew")
