"""``python -m bench [PART ...]``: everything, or the parts named."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from bench import attestation, finetune, lenet, noise, ops, plans, precision, rounds, script, simulate, transfer

PARTS: dict[str, Callable[[Console, Path], None]] = {
    "script": script.run,
    "lenet": lenet.run,
    "ops": ops.run,
    "transfer": transfer.run,
    "attestation": attestation.run,
    "plans": plans.run,
    "simulate": simulate.run,
    "rounds": rounds.run,
    "noise": noise.run,
    "precision": precision.run,
    "finetune": finetune.run,
}


def main(names: list[str]) -> int:
    """Runs the parts in order."""
    console = Console(width=120)
    unknown = sorted(set(names) - set(PARTS))
    if unknown:
        console.print(f"there is no {', '.join(unknown)}; the parts are: {', '.join(PARTS)}")
        return 2
    console.print(
        f"{os.cpu_count()} cores, torch {torch.__version__}. Ratios are medians over repeats, contenders taking turns; "
        "aims are aims, not tests.\n"
    )
    for name in names or PARTS:
        with tempfile.TemporaryDirectory(prefix="cloister-bench-") as folder:
            PARTS[name](console, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
