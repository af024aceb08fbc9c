"""Rounds of a study, against the least that a round can be; what each protection costs; memory; a CNN; an audit."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from bench import convolutions, crowd, ledger, parties
from bench.bare_round import bare_rounds
from bench.without import PROTECTIONS
from cloister.charter.charter import Unit
from cloister.charter.jobs import PRECISIONS, Precision
from cloister.net.identity import Identity
from cloister.testing.studies import AGGREGATOR, LocalColumns, LocalStudy

MB: Final = 1_000_000
WARM_UP: Final = 2
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Size:
    """A round to measure: ``turns`` times, ``rounds`` rounds each, after a warm-up."""

    owners: int
    nbytes: int
    rounds: int
    turns: int
    aim: str
    half_aim: str = ""
    """Of a round whose values travel in two bytes, to a floor that sends four."""

    def __str__(self) -> str:
        return f"{self.owners} members x {self.nbytes // MB} MB"


SIZES: Final = (Size(2, 1 * MB, 40, 3, "3x"), Size(10, 25 * MB, 6, 2, "1.5x", "1.0x"))


@dataclass(frozen=True)
class Turn:
    """Seconds a round, in the median; and the seconds of processor that the aggregator, or the bare server, took."""

    seconds: float
    processor: float
    added: float = 0.0
    """Until all was added, in a bare round."""


def run(console: Console, folder: Path) -> None:
    """(o) to (s)."""
    for size in SIZES:
        _rounds(console, folder, size)
    for size in SIZES:
        _noisy_rounds(console, size)
    crowd.run(console)
    convolutions.run(console)
    ledger.run(console)


def _rounds(console: Console, folder: Path, size: Size) -> None:
    identity = Identity.create(folder / f"{size.owners}.key")
    bare: list[Turn] = []
    found: dict[str, list[Turn]] = {name: [] for name in PROTECTIONS if name != "noise"}
    halves: dict[Precision, list[Turn]] = {name: [] for name in PRECISIONS if name != "full"}
    for _ in range(size.turns):
        bare.append(_bare(identity, size))
        for precision, turns in halves.items():
            turns.append(_protected(size, without="-", precision=precision))
        for name, turns in found.items():
            turns.append(_protected(size, without=name))
    table = Table(title=f"(o) a round without training, {size}", title_justify="left")
    table.add_column("")
    for column in ("ms a round", "ratio to floor", "aim", "processor, ms", "ratio to floor"):
        table.add_column(column, justify="right")
    added = statistics.median(turn.added for turn in bare) * 1e3
    table.add_row("floor, until all is added", f"{added:,.1f}", "", "", "", "")
    _row(table, "floor, until all have the sum", bare, bare, "")
    for name, turns in found.items():
        title = "everything on" if name == "-" else f"  without {'all of these' if name == 'all' else name}"
        _row(table, title, turns, bare, size.aim if name == "-" else "")
        if name == "-":
            for precision, others in halves.items():
                _row(table, f"  the same in {precision}", others, bare, size.half_aim)
    console.print(table)


def _noisy_rounds(console: Console, size: Size) -> None:
    contenders: dict[str, tuple[Unit | None, str]] = {
        "no noise": (None, "-"),
        "noise that hides each record": ("record", "-"),
        "  without drawing it": ("record", "noise"),
        "noise that hides each owner": ("owner", "-"),
        "  without drawing it ": ("owner", "noise"),
    }
    found: dict[str, list[Turn]] = {name: [] for name in contenders}
    for _ in range(size.turns):
        for name, (hidden, without) in contenders.items():
            found[name].append(_protected(size, without=without, hidden=hidden))
    table = Table(title=f"(s) a round without training, with noise, {size}", title_justify="left")
    table.add_column("")
    for column in ("ms a round", "ratio to no noise", "aim", "processor, ms", "ratio to no noise"):
        table.add_column(column, justify="right")
    for name, turns in found.items():
        _row(table, name, turns, found["no noise"], "")
    console.print(table)


def _row(table: Table, name: str, turns: list[Turn], bare: list[Turn], aim: str) -> None:
    row = [name]
    for value in ("seconds", "processor"):
        ratios = [getattr(turn, value) / getattr(floor, value) for turn, floor in zip(turns, bare, strict=True)]
        row.append(f"{statistics.median(getattr(turn, value) for turn in turns) * 1e3:,.1f}")
        row.append("" if turns is bare else f"{statistics.median(ratios):.2f}x")
    row.insert(3, aim)
    table.add_row(*row)


def _bare(identity: Identity, size: Size) -> Turn:
    found = bare_rounds(identity, clients=size.owners, nbytes=size.nbytes, rounds=WARM_UP + size.rounds)[WARM_UP:]
    added, whole, processor = (statistics.median(column) for column in zip(*found, strict=True))
    return Turn(whole, processor, added)


def _protected(size: Size, *, without: str, hidden: Unit | None = None, precision: Precision = "full") -> Turn:
    """``hidden``: what the charter's noise hides, if it has some."""
    with (
        tempfile.TemporaryDirectory(prefix="cloister-bench-") as name,
        _study(Path(name), size, without, hidden, precision) as study,
    ):
        moments = []
        for moment in _releases(study, size, without):
            moments.append((moment, processor_time(study.pid(AGGREGATOR))))
    kept = moments[WARM_UP - 1 :]
    seconds = [after[0] - before[0] for before, after in pairwise(kept)]
    return Turn(statistics.median(seconds), (kept[-1][1] - kept[0][1]) / len(seconds))


@contextmanager
def _study(folder: Path, size: Size, without: str, hidden: Unit | None, precision: Precision) -> Iterator[LocalStudy]:
    owners = {}
    for number in range(size.owners):
        file = folder / f"rows{number:02}.npz"
        np.savez(file, x=np.full((4, 1), number, np.float32))
        owners[f"owner{number:02}"] = [LocalColumns(file, ("x",), (parties.TAG,))]
    rounds = WARM_UP + size.rounds
    limits = parties.limits(size.nbytes, owners=size.owners, rounds=rounds, hidden=hidden)
    agreed = parties.agreed(size.nbytes, rounds=rounds, hidden=hidden, precision=precision)
    program = ("-m", "bench.parties", without)
    with LocalStudy(folder, owners, jobs=[agreed], limits=limits, program=program) as study:
        study.start_aggregator()
        study.start()
        yield study


def _releases(study: LocalStudy, size: Size, without: str) -> Iterator[float]:
    """The moments at which the researcher has the model of each round."""
    (route,) = study.routes.values()
    command = [sys.executable, "-m", "bench.parties", without, "researcher", str(study.folder), route]
    command += [str(size.nbytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as researcher:
        assert researcher.stdout is not None
        yield from map(float, researcher.stdout)
    assert researcher.returncode == 0, study.log(AGGREGATOR)[-2000:]


def processor_time(pid: int) -> float:
    """The seconds that a process has computed, within 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S
