"""What the demonstration shows: what it is and is not, the rounds as they come, the comparison, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from cloister.charter import Charter
from cloister.study.history import Round

_CAVEAT = (
    "[bold]What this shows:[/] three hospitals train one model, each in a process of its own, and no patient's data"
    " leaves its hospital. At each a node trains that only dials out; an aggregator that has proved its software and"
    " its charter adds up; and only means of at least two hospitals come out, with noise that hides each patient,"
    " each signed for.\n"
    "[bold]What it does not show:[/] a real TEE. The one here is [yellow]simulated[/], which rehearses and proves"
    " nothing. And epsilon bounds what is told of one patient; it does not make it nothing."
)


def introduce(console: Console, patients: Mapping[str, tuple[int, int]], held_out: int) -> None:
    """What is about to happen; ``patients`` holds how many each hospital has, and how many of them are malignant."""
    console.print(Panel(_CAVEAT, title="cloister demo", border_style="cyan"))
    table = Table(title="569 patients (breast-cancer data, UCI)")
    table.add_column("place")
    table.add_column("patients", justify="right")
    table.add_column("of them malignant", justify="right")
    for name, (count, malignant) in patients.items():
        table.add_row(name, str(count), f"{malignant / count:.0%}")
    table.add_row("held out, for judging", str(held_out), "", style="dim")
    console.print(table)


def agree(console: Console, charter: Charter) -> None:
    """The charter that everybody has signed."""
    owners = ", ".join(member.name for member in charter.owners)
    console.print(
        f"Charter [bold]{charter.name}[/] #{charter.serial}, signed by {owners} and the researcher:"
        f" {charter.digest.hex()[:16]}...",
        soft_wrap=True,
    )


def attested(console: Console, lines: Mapping[str, str]) -> None:
    """Prints the verdict of each hospital's node on the aggregator, which it found before it told it anything."""
    for name, line in lines.items():
        console.print(Text.assemble(("  ✓ ", "green"), (f"{name}: ", "bold"), line), soft_wrap=True)


class Rounds:
    """Shows rounds as they come, some twenty of them, with a progress bar: call it with each, within ``with``.

    ``spent``: what so many rounds cost each patient, in epsilon.
    """

    def __init__(self, console: Console, *, total: int, spent: Callable[[int], float]) -> None:
        self._console = console
        self._spent = spent
        self._total, self._done, self._every = total, 0, max(1, total // 20)
        self._table = Table(title="The study")
        for name in ("round", "mean of", "epsilon so far"):
            self._table.add_column(name, justify="right")
        self._table.add_column("held out: accuracy", justify="right", style="bold")
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task("training", total=total)
        self._live = Live(Group(self._table, self._progress), console=console, refresh_per_second=8)

    def __call__(self, done: Round) -> None:
        """One more round was released."""
        self._done += 1
        if self._done % self._every == 0 or self._done == self._total:
            found = (f"{self._spent(self._done):.2f}", f"{done.evaluation['accuracy']:.1%}")
            self._table.add_row(str(done.number), f"{len(done.owners)} hospitals", *found)
        self._progress.advance(self._task)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, fault, trace)
        if not self._console.is_terminal:
            self._console.print()  # where nothing is drawn over, the last line of the progress bar is still open


def compare(
    console: Console,
    alone: Mapping[str, float],
    *,
    federated: float,
    epsilon: float,
    without_noise: float,
    pooled: float,
) -> None:
    """The accuracies side by side."""
    table = Table(title="Accuracy on the patients that nobody trained on")
    table.add_column("trained on")
    table.add_column("accuracy", justify="right")
    for name, value in alone.items():
        table.add_row(f"{name} alone", f"{value:.1%}")
    name = f"the federation: all three, no data moved, noise on each mean (epsilon {epsilon:.2f})"
    table.add_row(name, f"{federated:.1%}", style="bold green")
    table.add_row("the same without noise, which hides nobody, for comparison", f"{without_noise:.1%}", style="dim")
    table.add_row("all data pooled in one place, for comparison", f"{pooled:.1%}", style="dim")
    console.print(table)


def refuse(console: Console, attempt: str, faults: Mapping[str, str]) -> None:
    """What somebody tried, and how it was refused: by whom, in which words. Those who say the same share a line."""
    console.print(attempt, soft_wrap=True)
    said: dict[str, list[str]] = {}
    for name, fault in faults.items():
        said.setdefault(fault, []).append(name)
    for fault, names in said.items():
        verb = "refuses" if len(names) == 1 else "refuse"
        line = Text.assemble(("  ✗ ", "red"), (f"{_listed(names)} {verb}: ", "bold"), fault)
        console.print(line, soft_wrap=True)


def audit(console: Console, lines: Iterable[str], *, command: str) -> None:
    """What the audit of the chain says, and how to repeat it."""
    console.print("Every round has left a receipt. Their audit, from files alone:")
    for line in lines:
        console.print(Text(f"  {line}"), soft_wrap=True)
    console.print("To have it done by hand:")
    console.print(Text(f"  {command}", style="bold"), soft_wrap=True)


def finish(console: Console, *, seconds: float) -> None:
    """The last line."""
    console.print(f"Done in {seconds:.0f} s. Every process that was started has ended.", style="dim")


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
