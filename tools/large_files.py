"""Trains on files far larger than the process that reads them may be, and reports what that took.

    python tools/large_files.py                      20 GiB of each format, in processes of 2 GiB
    python tools/large_files.py --gib 100 --limit-gib 1 --formats npy

The values are zeros: the files take next to no room on the disk, and are read as any others. The limit is RLIMIT_DATA,
what a process may hold that is its own; pages of a mapped file are the system's to take back. "Own memory" is the most
that was resident of it (RssAnon), "resident" includes such pages.

Exit status: 1 if a process failed, else 0."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

WIDTH = 1 << 16  # float32 values in a row: 256 KiB
TRAIN = """
import resource, sys, threading, time
from pathlib import Path
import torch
from cloister.worker.data.files import Source, open_columns

def own():
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) / 2**20

path, limit = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
started, most, rows = time.perf_counter(), 0.0, 0
data = open_columns({"x": Source(path, "" if path.suffix == ".npy" else "x")})
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for (x,) in data.epoch(64, seed=1, step=0):
    optimizer.zero_grad()
    model(x[:, :8]).square().mean().backward()
    optimizer.step()
    rows += len(x)
    most = max(most, own())
resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(f"{rows} rows in {time.perf_counter() - started:.0f} s; own memory {most:.2f} GiB, resident {resident:.2f} GiB")
"""


def write_npy(path: Path, rows: int) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {WIDTH}), }}".ljust(117) + "\n"
    write_sparse(path, b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode(), rows)


def write_safetensors(path: Path, rows: int) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [rows, WIDTH], "data_offsets": [0, rows * WIDTH * 4]}}).encode()
    write_sparse(path, len(header).to_bytes(8, "little") + header, rows)


def write_sparse(path: Path, header: bytes, rows: int) -> None:
    path.write_bytes(header)
    with path.open("r+b") as file:
        file.truncate(len(header) + rows * WIDTH * 4)


def write_parquet(path: Path, rows: int) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    group = 128  # 32 MiB
    piece = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(group * WIDTH, np.float32)), WIDTH)})
    with pq.ParquetWriter(path, piece.schema, use_dictionary=False, compression="zstd") as writer:
        for _ in range(rows // group):
            writer.write_table(piece)


WRITERS = {"npy": write_npy, "safetensors": write_safetensors, "parquet": write_parquet}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=20, help="size of each file's values (default: 20)")
    parser.add_argument("--limit-gib", type=float, default=2, help="what a process may hold (default: 2)")
    parser.add_argument("--formats", nargs="+", choices=WRITERS, default=list(WRITERS))
    arguments = parser.parse_args()
    rows = int(arguments.gib * 2**30) // (WIDTH * 4) // 128 * 128
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for kind in arguments.formats:
            path = Path(folder) / f"x.{kind}"
            WRITERS[kind](path, rows)
            command = [sys.executable, "-c", TRAIN, str(path), str(int(arguments.limit_gib * 2**30))]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            print(f"{kind:12} {(done.stdout or done.stderr).strip()}", flush=True)
            failed |= done.returncode != 0
            path.unlink()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
