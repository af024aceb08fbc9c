"""Files larger than the memory of the process that trains on them.

The limit is RLIMIT_DATA: what a process may hold that is its own. A mapping of a file is not, the system can take its
pages back at any time. (RLIMIT_AS would forbid the mapping itself, whatever is read of it.) ``tools/large_files.py``
does the same with 20 GiB.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cloister.errors import DataSetError
from cloister.worker.data.files import Source, open_columns

TRAIN = """
import resource, sys
from pathlib import Path
import torch
from cloister.worker.data.files import Source, open_columns

path, limit, batch_size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
data = open_columns({"x": Source(path, "" if path.suffix == ".npy" else "x")})
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
rows = 0
for (x,) in data.epoch(batch_size, seed=1, step=0):
    optimizer.zero_grad()
    model(x[:, :8].float()).square().mean().backward()
    optimizer.step()
    rows += len(x)
try:
    torch.empty(limit, dtype=torch.uint8)
except RuntimeError:  # the limit is one
    print(rows, model.bias.isfinite().item())
"""


def train(path: Path, *, limit: int, batch_size: int) -> tuple[int, str]:
    """How many rows a process with ``limit`` bytes of its own trained on, and what it wrote on stderr."""
    command = [sys.executable, "-c", TRAIN, str(path), str(limit), str(batch_size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return 0, done.stderr
    rows, finite = done.stdout.split()  # nothing, if the limit had been none
    assert finite == "True"
    return int(rows), done.stderr


def sparse_npy(path: Path, rows: int, width: int) -> Path:
    """float32 zeros that take no room on the disk."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    with path.open("r+b") as file:
        file.truncate(10 + len(header) + rows * width * 4)
    return path


def sparse_safetensors(path: Path, rows: int, width: int) -> Path:
    header = json.dumps({"x": {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, rows * width * 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with path.open("r+b") as file:
        file.truncate(8 + len(header) + rows * width * 4)
    return path


def constant_parquet(path: Path, rows: int, width: int, *, group: int) -> Path:
    """float32 zeros, which are folded to next to nothing: the file is large only once it is read."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    piece = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(group * width, np.float32)), width)})
    with pq.ParquetWriter(path, piece.schema, use_dictionary=False, compression="zstd") as writer:
        for _ in range(rows // group):
            writer.write_table(piece)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npy", "safetensors"])
def test_what_is_mapped_may_be_larger_than_the_process(tmp_path: Path, kind: str) -> None:
    make = sparse_npy if kind == "npy" else sparse_safetensors
    path = make(tmp_path / f"x.{kind}", 10_240, 1 << 14)  # 640 MiB
    assert train(path, limit=384 << 20, batch_size=64) == (10_240, "")


@pytest.mark.slow
def test_what_is_in_parquet_may_be_larger_than_the_process(tmp_path: Path) -> None:
    path = constant_parquet(tmp_path / "x.parquet", 12_288, 1 << 14, group=512)  # 768 MiB in groups of 32 MiB
    assert train(path, limit=640 << 20, batch_size=64) == (12_288, "")


def test_opening_reads_headers_only(tmp_path: Path) -> None:
    path = sparse_npy(tmp_path / "x.npy", 1 << 28, 1 << 8)  # 256 GiB
    assert len(open_columns({"x": Source(path)})) == 1 << 28


def test_an_array_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros(10))

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "empty", full)
    with pytest.raises(DataSetError, match=r"x\.npz, tensor 'x': there is not enough memory"):
        open_columns({"x": Source(tmp_path / "x.npz", "x")})
