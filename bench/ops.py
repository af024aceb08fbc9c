"""The cost of one small remote operation when nothing waits for it."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

from bench.measure import in_turn
from cloister.testing.federation import LocalFederation

_OPS = 2000


def run(console: Console, folder: Path) -> None:
    """(c)."""
    torch.set_num_threads(1)
    with LocalFederation(folder, ["bob"], session={"threads": 1}) as nodes:
        nodes.start("bob")
        with nodes.connect("bob") as bob, torch.no_grad():
            start = bob.zeros(4)

            def many() -> None:
                pointer = start
                for _ in range(_OPS):
                    pointer = pointer + start
                bob.count()

            timing = in_turn({"many": many}, repeats=15)["many"]
    console.print(f"(c) one small remote operation, pipelined: {timing.median / _OPS * 1e6:.1f} us (aim: at most 40)\n")
