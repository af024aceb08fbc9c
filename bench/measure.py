"""Timing contenders in turn, so that a machine whose speed drifts is unfair to none of them."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Timing:
    """One contender's times for one call, in seconds."""

    times: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.times)


def in_turn(
    contenders: Mapping[str, Callable[[], object]], *, repeats: int, calls: int = 1, warm_up: int = 1
) -> dict[str, Timing]:
    """Times each contender ``repeats`` times, ``calls`` calls at a time, one contender after the other."""
    for _ in range(warm_up):
        for contender in contenders.values():
            contender()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats):
            for name, contender in contenders.items():
                started = perf_counter()
                for _ in range(calls):
                    contender()
                times[name].append((perf_counter() - started) / calls)
    finally:
        gc.enable()
    return {name: Timing(tuple(found)) for name, found in times.items()}


def ratio(numerator: Timing, denominator: Timing) -> float:
    """The median of the ratios, repeat by repeat."""
    return statistics.median(a / b for a, b in zip(numerator.times, denominator.times, strict=True))


def show(
    console: Console,
    title: str,
    timings: Mapping[str, Timing],
    *,
    against: str,
    aims: Mapping[str, str] | None = None,
    unit: str = "us",
) -> None:
    """A table: medians, spread, and each contender's ratio to one of them."""
    scale = {"us": 1e6, "ms": 1e3, "s": 1.0}[unit]
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in (f"median, {unit}", "min", "max", f"ratio to {against}", "aim"):
        table.add_column(column, justify="right")
    for name, timing in timings.items():
        numbers = (timing.median, min(timing.times), max(timing.times))
        table.add_row(
            name,
            *(f"{number * scale:,.1f}" for number in numbers),
            "" if name == against else f"{ratio(timing, timings[against]):.2f}x",
            (aims or {}).get(name, ""),
        )
    console.print(table)
