"""``python -m tools.soak``: a study of real processes over TLS that lasts while its members come, go, die and are
killed, its aggregator and its researcher too. Then what is left is looked at: the chain, every owner's disk, every
round's number, and whether any process grew. Blows are a function of the seed; at what byte they meet is the machine's.

Exit status: 1 if anything is not as it has to be, 2 if the study halted. Logs and records are kept in the folder then.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tools.soak.run import HaltedError, Outcome, Settings, soak


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.soak", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=1000, help="of the job (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--owners", type=int, default=5, choices=(3, 4, 5))
    parser.add_argument("--floor", type=int, default=2)
    parser.add_argument("--rate", type=float, default=0.16, help="the part of rounds after which something happens")
    parser.add_argument("--silence", type=float, default=5.0, help="the longest stop of an owner, in seconds")
    parser.add_argument("--folder", type=Path, help="where logs and records go; it is kept (default: a temporary one)")
    asked = parser.parse_args(arguments)
    settings = Settings(
        asked.rounds, asked.seed, asked.owners, asked.floor, asked.rate, silence_s=(0.2, max(0.2, asked.silence))
    )
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="cloister-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=120)
    try:
        outcome = soak(folder, settings, say=lambda text: console.print(text, highlight=False))
    except HaltedError as fault:
        console.print(f"halted: {fault}; see {folder}")
        return 2
    show(outcome, console)
    if outcome.faults:
        console.print(f"see {folder}")
    elif asked.folder is None:
        shutil.rmtree(folder)
    return 1 if outcome.faults else 0


def show(outcome: Outcome, console: Console) -> None:
    """Prints what came of a run."""
    found = outcome.account
    assert found is not None
    console.print(
        f"{outcome.rounds} rounds in {outcome.seconds:.0f} s, seed {outcome.settings.seed}; the last number is"
        f" {found.last}: {found.released} released, {found.said} void as an instance said, {found.shown} void as owners"
        f" know, {found.died} begun by an instance that died, {len(found.open)} open;"
        f" {found.again} numbers were used again; longest wait"
        f" {outcome.longest_s[0]:.1f} s, after {outcome.longest_s[1]} rounds"
    )
    blows = Table("blow", "times", title="what happened", title_justify="left")
    for kind, times in sorted(outcome.dealt.items()):
        blows.add_row(kind, str(times))
    console.print(blows, f"{outcome.cut} connections were cut; {outcome.missed} blows met nobody")
    grown = Table(title="first and last quarter, medians, without a warm-up", title_justify="left")
    for column in ("process", "samples", "lives", "RSS, MiB", "threads", "descriptors", "longest life", "flat"):
        grown.add_column(column)
    for each in outcome.trends:
        rss = " -> ".join(f"{value / 1024:.1f}" for value in each.rss_kib)
        threads, descriptors = (
            " -> ".join(f"{value:g}" for value in pair) for pair in (each.threads, each.descriptors)
        )
        life = f"{each.longest[0]} rounds, {each.longest[1] / 1024:+.1f} MiB"
        grown.add_row(
            each.role, str(each.samples), str(each.lives), rss, threads, descriptors, life, "yes" if each.flat else "NO"
        )
    console.print(grown)
    (first, before), (last, after) = outcome.records_kib[0], outcome.records_kib[-1]
    if last > first:
        console.print(
            f"an owner's records: {after} KiB after {last} rounds, {(after - before) / (last - first):.1f} each"
        )
    console.print(
        "budgets: " + ", ".join(f"{name} {found.spent[name]} of {each}" for name, each in found.members.items())
    )
    for fault in outcome.faults:
        console.print(f"FAULT {fault}", highlight=False, markup=False)


if __name__ == "__main__":
    sys.exit(main())
