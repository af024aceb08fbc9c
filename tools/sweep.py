"""``python -m tools.sweep``: looks among jobs that a charter can have, and pairs of them, for a mean that is one row's
or one owner's, and prints the least error and the greatest cosine of each kind of model and family of jobs; then the
figures of the threat model. A run is a function of its arguments, and takes about five minutes.

Exit status: 1 if a row of centred columns was read, or an owner's update found in the means of a trained model.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from time import monotonic

import torch

from tests.attacks import sweep
from tests.attacks.sweep import FAMILIES, KINDS, LIKE, READ

NARROW, WIDE = "MLP, 16 wide", "MLP, 256 wide"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.sweep", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many first models, or secrets of owners")
    parser.add_argument("--batch", type=int, help="rows of a step (default: 32; 64 where a layer is 256 wide)")
    parser.add_argument("--only", default="", help="kinds of models with this in their names")
    parser.add_argument("--figures", action="store_true", help="the figures alone")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    began, broken = monotonic(), 0
    if not asked.figures:
        broken = _search(asked.only, range(asked.seeds), asked.batch)
    for what, figure in figures():
        print(f"{what:92} {figure}", flush=True)
    print(f"{monotonic() - began:.0f} s")
    return 1 if broken else 0


def _search(only: str, seeds: Sequence[int], batch_size: int | None) -> int:
    """How many families break a promise."""
    print(f"{'model':20} {'begun':8} {'columns':8} {'jobs':24} {'row':>7} {'of few':>7} {'owner':>6}")
    broken = 0
    for kind in (each for each in KINDS if only in each):
        for fitted, inputs in ((False, "centred"), (True, "centred"), (False, "raw"), (True, "raw")):
            for family in FAMILIES:
                best = sweep.searched(kind, family, fitted=fitted, inputs=inputs, batch_size=batch_size, seeds=seeds)
                reads = best.row < READ and inputs == "centred" and kind != "CNN"
                found = fitted and inputs == "centred" and best.owner > LIKE
                broken += reads or found
                begun = "trained" if fitted else "drawn"
                errors = " ".join("      -" if each > 99 else f"{each:7.3f}" for each in (best.row, best.few))
                marks = " <- a row" * (min(best.row, best.few) < READ) + " <- an owner" * (fitted and best.owner > LIKE)
                print(f"{kind:20} {begun:8} {inputs:8} {family:24} {errors} {best.owner:6.3f}{marks}", flush=True)
    return broken


def figures() -> Iterator[tuple[str, str]]:
    """What the threat model says a mean still tells."""
    for inputs, fitted in (("raw", False), ("centred", True)):
        for batch_size, steps in ((16, 1), (32, 1), (32, 2), (64, 1), (64, 2), (32, 4), (64, 4)):
            rows = sweep.rows_in_rounds(
                WIDE, inputs=inputs, fitted=fitted, batch_size=batch_size, steps=steps, rounds=20
            )
            begun = "trained" if fitted else "drawn"
            yield f"rows read a round: {WIDE}, {begun}, {inputs}, {steps} steps of {batch_size}", f"{rows:.2f}"
    for steps in (1, 4):
        rows = sweep.rows_in_rounds("CNN", inputs="raw", fitted=False, batch_size=32, steps=steps, rounds=20)
        yield f"rows read a round, as a CNN's dense layer sees them, {steps} steps of 32", f"{rows:.2f}"
    makers = {"a misfit row": sweep.with_a_misfit, "wrong labels": sweep.with_wrong_labels}
    for kind, what, level in itertools.product((NARROW, WIDE), makers, (False, True)):
        cosine, rows_read = sweep.misfit(makers[what](kind), level=level)
        mean = "levelled" if level else "plain mean"
        yield f"{what}, {kind}, {mean}: cosine, rows read", f"{cosine:.2f}, {rows_read}"
    for begun, model in (("drawn", sweep.first(NARROW)), ("trained", sweep.trained(NARROW))):
        for count in (4, 5):
            told = [sweep.absence(sweep.setting(model, sweep.dealt(count)), lr=lr) for lr in (0.01, 0.1, 1.0)]
            yield f"away from one of two rounds, {begun}, {count} owners, rates 0.01, 0.1, 1: cosine", _row(told)
    yield (
        "words that one owner alone has: told, rightly, and the cosine of its change to them",
        _row(sweep.words_told()),
    )
    errors = [sweep.label_error(steps=steps) for steps in (1, 4, 8)]
    yield "shares of labels, 1, 4 and 8 steps: error in points", _row(errors)
    for fitted in (False, True):
        signs = sweep.adam_signs(fitted=fitted)
        yield (
            f"Adam, {'trained' if fitted else 'drawn'}: signs told of all owners, rightly, and of one owner",
            _row(signs),
        )


def _row(found: Iterable[float]) -> str:
    return ", ".join(f"{each:.3f}" for each in found)


if __name__ == "__main__":
    sys.exit(main())
