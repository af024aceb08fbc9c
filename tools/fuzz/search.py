"""Random sessions through the worker's own executor, by wire messages, as a hostile caller would have them.

    python -m tools.fuzz --minutes 10                  all operations of the table, in turn
    python -m tools.fuzz --calls 20000 --seed 7        until so many calls were made
    python -m tools.fuzz --minutes 1 --only nll_loss   operations whose name contains a text
    python -m tools.fuzz --replay found.jsonl          the steps of a finding, one a line (or "-": from standard input)
    python -m tools.fuzz --unguarded --only backward   without guards: shows what a guard is for

Run it after an upgrade of PyTorch, for an operation that is added, and when the executor changes. A session puts
tensors and calls operations with valid and bent arguments: objects twice, views of views, overlapping windows, no
elements, huge and negative integers, other element types, numbers of objects that were freed. After each step
everything that the session holds is compared byte by byte; ``watching.py`` says what must hold, ``campaign.py`` what
crash, hang and leak are.

With a C compiler, tensors' memory lies between inaccessible pages. A fault is printed once for each operation, shrunk,
as lines that ``--replay`` takes. An operation with three findings is left out from then on. Exit status: 1 if anything
was found."""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch

from cloister.worker import guards
from tools.fuzz import valid as calls_of
from tools.fuzz.campaign import Campaign, Finding, Tally
from tools.fuzz.fence import Fence
from tools.fuzz.sessions import every
from tools.fuzz.shrinking import shrunk

ENOUGH = 3
CALLS_A_SESSION, SESSIONS_A_CHILD = 40, 25


def search(campaign: Campaign, *, first: int, calls: int, minutes: float) -> Mapping[tuple[str, str], int]:
    """Sessions from ``first`` on, until so many calls or minutes; how often each fault of an operation was found."""
    found: Counter[tuple[str, str]] = Counter()
    number, deadline = first, time.monotonic() + minutes * 60
    while campaign.tally.calls.total() < calls and time.monotonic() < deadline:
        often = Counter[str]()
        for (_, op), count in found.items():
            often[op] += count
        without = frozenset(op for op, count in often.items() if count >= ENOUGH)
        left = -(-(calls - campaign.tally.calls.total()) // CALLS_A_SESSION)
        numbers = range(number, number + min(SESSIONS_A_CHILD, left))
        taken, finding = campaign.sessions(numbers, CALLS_A_SESSION, without=without)
        number += taken
        if finding is not None:
            key = (finding.kind, finding.op)
            found[key] += 1
            if found[key] == 1:
                steady = campaign.again(finding.steps) is not None
                shown = shrunk(finding, campaign.again) if steady else f"not again: {finding}"
                print(f"session {number - 1}: {shown}", flush=True)
    return found


def report(tally: Tally, found: Mapping[tuple[str, str], int], names: list[str]) -> None:
    """Prints the figures."""
    accepted = tally.accepted.total()
    print(
        f"{tally.sessions} sessions, {tally.calls.total()} calls: {accepted} accepted, "
        f"{tally.calls.total() - accepted} not ({dict(tally.outcomes.most_common())})"
    )
    print(
        f"of {len(names)} operations {len(tally.calls)} were called and {len(+tally.accepted)} accepted at least once"
    )
    never = [name.removeprefix("aten::") for name in names if not tally.accepted[name]]
    if never:
        print("never accepted:", *never)
    kinds = Counter[str]()
    for (kind, _), count in found.items():
        kinds[kind] += count
    print(f"found: {dict(kinds)}" if kinds else "found: nothing")
    for (kind, op), count in sorted(found.items()):
        print(f"    {count:3} {kind:10} {op}")


def _replayed(campaign: Campaign, source: str) -> Finding | None:
    text = sys.stdin.read() if source == "-" else Path(source).read_text()
    return campaign.again([json.loads(line) for line in text.splitlines() if line.strip()])


def main(fence: Fence) -> int:
    """Searches, or takes the steps of a finding again; prints what was found."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calls", type=int, default=1 << 62)
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--first", type=int, default=0, metavar="SESSION", help="the number of the first session")
    parser.add_argument("--only", default="", metavar="TEXT", help="operations whose name contains it")
    parser.add_argument("--few", action="store_true", help="without the valid calls of PyTorch's operator samples")
    parser.add_argument("--unguarded", action="store_true")
    parser.add_argument(
        "--pass-over", default="", metavar="KINDS", help="books and geometry are not looked at: books,geometry"
    )
    parser.add_argument("--replay", metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.unguarded:
        guards.check = lambda name, arguments: None
    names = every(options.only)
    if options.replay:
        finding = _replayed(Campaign(fence, {}, names, seed=options.seed), options.replay)
        print(finding or "nothing")
        return int(finding is not None)
    if options.calls == 1 << 62 and options.minutes == 1e6:
        parser.error("how long? say --calls or --minutes")
    valid, passed_over = calls_of.few() if options.few else calls_of.many(), frozenset(options.pass_over.split(","))
    campaign = Campaign(fence, valid, names, seed=options.seed, passed_over=passed_over)
    found = search(campaign, first=options.first, calls=options.calls, minutes=options.minutes)
    report(campaign.tally, found, names)
    return int(bool(found))
