"""What the demonstration shows: what it is and is not, the rounds as they come, and the comparison at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from cloister.charter import Charter
from cloister.demo.training import Round
from cloister.errors import CloisterError

_CAVEAT = (
    "[bold]What this shows:[/] a researcher's ordinary PyTorch script trains on data that stays in three other"
    " processes, over mutual TLS 1.3; each hospital sends its model to the aggregator directly, and only once the"
    " aggregator has proved which software it runs under which charter.\n"
    "[bold]What it does not show yet:[/] the data sets are marked [yellow]unsafe_interactive[/], so each hospital"
    " trusts this researcher as itself; the TEE is [yellow]simulated[/], which rehearses and proves nothing; and the"
    " charter is [yellow]interactive[/], so nothing limits what the researcher takes out of the aggregator. Studies on"
    " data that stays closed come in later versions."
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
        f" {charter.digest.hex()[:16]}..."
    )


def vouch(console: Console, lines: Mapping[str, str]) -> None:
    """What each hospital's node found before it sent its first value to the aggregator."""
    for name, line in lines.items():
        console.print(Text.assemble(("  ✓ ", "green"), (f"{name}: ", "bold"), line))


def refuse(console: Console, faults: Mapping[str, CloisterError]) -> None:
    """Why each hospital will have nothing to do with the tampered aggregator."""
    console.print("An operator puts an aggregator with [bold]one byte changed[/] behind the same address:")
    for name, fault in faults.items():
        console.print(Text.assemble(("  ✗ ", "red"), (f"{name} refuses it: ", "bold"), str(fault)))


def follow(console: Console, rounds: Iterable[Round], names: Sequence[str], *, total: int) -> list[Round]:
    """Shows the rounds as they come, with a progress bar, and returns them."""
    table = Table(title="Federated averaging")
    table.add_column("round", justify="right")
    for name in names:
        table.add_column(f"{name}: loss", justify="right")
    table.add_column("averaged model: accuracy", justify="right", style="bold")
    progress = Progress(TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console)
    task = progress.add_task("training", total=total)
    seen: list[Round] = []
    with Live(Group(table, progress), console=console, refresh_per_second=8):
        for outcome in rounds:
            losses = [f"{outcome.losses[name]:.4f}" for name in names]
            table.add_row(str(outcome.number), *losses, f"{outcome.accuracy:.1%}")
            progress.advance(task)
            seen.append(outcome)
    if not console.is_terminal:
        console.print()  # where nothing is drawn over, the last line of the progress bar is still open
    return seen


def compare(console: Console, alone: Mapping[str, float], *, federated: float, pooled: float, seconds: float) -> None:
    """The accuracies side by side."""
    table = Table(title="Accuracy on the patients that nobody trained on")
    table.add_column("trained on")
    table.add_column("accuracy", justify="right")
    for name, value in alone.items():
        table.add_row(f"{name} alone", f"{value:.1%}")
    table.add_row("the federation: all three, and no data moved", f"{federated:.1%}", style="bold green")
    table.add_row("all data pooled in one place, for comparison", f"{pooled:.1%}", style="dim")
    console.print(table)
    console.print(f"Done in {seconds:.0f} s. Every process that was started has ended.", style="dim")
