"""Data sets in every format, with the same rows in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from cloister.worker.data.batches import Batches
from cloister.worker.data.files import Source, open_columns, open_file
from cloister.worker.data.parquet import RowGroups
from cloister.worker.data.rows import Arrays


def numbered(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that can be told from each other: x of (rows, 2, 3), and y, each row's number."""
    y = torch.arange(rows)
    return y.float().view(-1, 1, 1) + torch.arange(6.0).view(2, 3) / 8, y


def write_parquet(path: Path, columns: dict[str, Any], *, group: int) -> None:
    """``columns``: Arrow arrays, or NumPy ones, whose further dimensions become fixed-size lists."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def arrow(values: Any) -> Any:
        if not isinstance(values, np.ndarray):
            return values
        array = pa.array(values.reshape(-1))
        for size in values.shape[:0:-1]:
            array = pa.FixedSizeListArray.from_arrays(array, size)
        return array

    pq.write_table(pa.table({name: arrow(values) for name, values in columns.items()}), path, row_group_size=group)


def in_memory(_: Path, x: torch.Tensor, y: torch.Tensor) -> Batches:
    return Arrays({"x": x, "y": y})


def npz(folder: Path, x: torch.Tensor, y: torch.Tensor) -> Batches:
    np.savez_compressed(folder / "a.npz", y=y.numpy(), x=np.asfortranarray(x.numpy()))
    return open_file(folder / "a.npz", columns=("x", "y"))


def npy(folder: Path, x: torch.Tensor, y: torch.Tensor) -> Batches:
    np.save(folder / "x.npy", x.numpy())
    np.save(folder / "y.npy", y.numpy())
    return open_columns({"x": Source(folder / "x.npy"), "y": Source(folder / "y.npy")})


def safetensors(folder: Path, x: torch.Tensor, y: torch.Tensor) -> Batches:
    save_file({"y": y, "x": x}, folder / "a.safetensors")
    return open_file(folder / "a.safetensors", columns=("x", "y"))


def parquet(folder: Path, x: torch.Tensor, y: torch.Tensor) -> Batches:
    write_parquet(folder / "a.parquet", {"y": y.numpy(), "x": x.numpy()}, group=7)
    return RowGroups(folder / "a.parquet", columns={"x": "x", "y": "y"}, window_bytes=640)


FORMATS: dict[str, Callable[[Path, torch.Tensor, torch.Tensor], Batches]] = {
    "memory": in_memory,
    "npz": npz,
    "npy": npy,
    "safetensors": safetensors,
    "parquet": parquet,
}
