"""The newest model that a study released, as a file of its own: from what a researcher's script has kept, offline."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file

from cloister.errors import ConfigurationError, LedgerError
from cloister.ledger.job import Job
from cloister.ledger.jsonl import describe
from cloister.ledger.sync import ModelState
from cloister.study.log import CHAIN
from cloister.study.state_dir import NEWEST, Folder, replace_file
from cloister.tensor.geometry import DTYPES
from cloister.worker import flatten as deltas
from cloister.worker.values import as_bytes


class Written(NamedTuple):
    """What was written: the round that released the model, its digest (32 bytes), and how many tensors it has."""

    round: int
    digest: bytes
    tensors: int


def write_newest(state: Path, file: Path) -> Written:
    """Writes the newest model in a study's folder as safetensors, each tensor under its own name, as in a
    ``state_dict``.

    Raises:
        ConfigurationError: there is none yet, it is not the one that the newest receipt names, or a file is there
            already, or cannot be read or written.
        LedgerError: the chain in the folder is damaged.
    """
    folder = Folder(state)
    job = folder.job()
    model = None if job is None else folder.model(job)
    released = _released(folder)
    if job is None or model is None or released is None:
        raise ConfigurationError(
            f"{state} holds no model that a round released: name the folder of a script that has called Study.fit,"
            " which is charter.rounds beside charter.toml; or run that script again"
        )
    number, digest = released
    if model.digest != digest:
        raise ConfigurationError(
            f"{state / NEWEST} is not the model that round {number} released: run the script again, and it is sent anew"
        )
    if file.exists():
        raise ConfigurationError(f"{file} exists and is not overwritten; name another file")
    tensors = _named(job, model)
    metadata = {"format": "pt", "round": str(number), "model": digest.hex(), "charter": job.charter.hex()}
    replace_file(file, lambda draft: save_file(tensors, draft, metadata))
    return Written(number, digest, len(tensors))


def _released(folder: Folder) -> tuple[int, bytes] | None:
    """The newest round that released a model, and the model's digest."""
    found: tuple[int, bytes] | None = None
    try:
        for record in folder.records():
            said = describe(record)
            if said["kind"] == "round":
                found = said["round"], bytes.fromhex(said["released"])
    except LedgerError as fault:
        raise LedgerError(f"{folder.path / CHAIN}, {fault}; move it away, and it is sent again") from None
    return found


def _named(job: Job, model: ModelState) -> dict[str, torch.Tensor]:
    values = torch.frombuffer(bytearray(model.vector), dtype=DTYPES[job.layout.dtype])
    tensors = {part.name: torch.empty(part.spec.shape, dtype=DTYPES[part.spec.dtype]) for part in job.tensors.parts}
    deltas.unflatten(values, layout=job.layout, into=tensors)
    for constant in job.tensors.constants:
        tensors[constant.name] = torch.empty(constant.spec.shape, dtype=DTYPES[constant.spec.dtype])
        as_bytes(tensors[constant.name])[:] = constant.data
    return tensors
