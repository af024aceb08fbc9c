"""``python -m tools.mutants``: breaks the lines that security rests on, and has unit tests notice.

Exit status: 0 if each mutant was killed, 1 if not, 2 if the list does not fit the source.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.mutants.listed import MUTANTS
from tools.mutants.running import Bench, Fate, Mutant


def main(
    arguments: Sequence[str] | None = None, *, mutants: Sequence[Mutant] = MUTANTS, bench: Bench | None = None
) -> int:
    """The exit status. ``mutants`` and ``bench`` are this project's unless others are given."""
    asked = _parse(arguments)
    bench = bench or Bench(root=Path(__file__).parents[2], within_s=asked.seconds)
    stale = bench.stale(mutants)
    if stale:
        print("the list of mutants does not fit the source; mend it with what was changed:", *stale, sep="\n  ")
        return 2
    chosen = [each for each in mutants if asked.only in each.name or asked.only in each.file]
    width = max((len(each.name) for each in chosen), default=0)
    if asked.list:
        for each in chosen:
            print(f"{each.name:{width}}  {each.file}: {each.breaks}")
        return 0
    by_name = {each.name: each for each in chosen}
    fates = []
    for result in bench.run(chosen, jobs=asked.jobs):
        fates.append(result.fate)
        print(f"{result.fate.value:8}  {result.seconds:5.0f} s  {result.name}", flush=True)
        if result.fate is not Fate.KILLED:
            if result.name in by_name:
                print(f"          {by_name[result.name].file}: {by_name[result.name].breaks}")
            print("          " + result.text.replace("\n", "\n          "), flush=True)
    killed = fates.count(Fate.KILLED)
    print(f"{killed} of {len(chosen)} mutants killed")
    return 0 if fates == [Fate.KILLED] * len(chosen) and chosen else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("only", nargs="?", default="", help="those with this in their name or file")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time (default: processors)"
    )
    parser.add_argument("--seconds", type=float, default=300.0, help="how long the tests of one may take")
    parser.add_argument("--list", action="store_true", help="say what is on the list, and run nothing")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
