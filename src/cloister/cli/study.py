"""`cloister study`: what a researcher works out before owners are asked to sign."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

import typer

from cloister.charter.jobs import FEWEST_BATCHES
from cloister.errors import ConfigurationError
from cloister.study.epochs import MANY_PASSES, passes_of, steps_of

app: Final = typer.Typer(no_args_is_help=True)


@app.callback()
def _study() -> None:
    """Plan a study."""


@app.command()
def plan(
    rows: Annotated[
        list[int], typer.Argument(metavar="ROWS...", help="How many rows each owner has, roughly.", show_default=False)
    ],
    *,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of every owner in every step.")] = 32,
    epochs: Annotated[float, typer.Option(help="Passes of the owner in the middle over its rows, in a round.")] = 1.0,
) -> None:
    """Make steps of epochs: a job's steps are the same for all owners, and each of them is of whole batches."""
    if not epochs > 0 or min(rows) < 1:
        raise ConfigurationError("epochs are more than 0, and each owner has at least one row")
    steps = steps_of(rows, batch_size=batch_size, epochs=epochs)
    typer.echo(f"batch_size = {batch_size}\nsteps = {steps}\n")
    typer.echo(f"{'rows':>9}{'batches':>9}{'used':>9}{'passes':>9}")
    for line in _owners(rows, batch_size=batch_size, steps=steps):
        typer.echo(line)


def _owners(rows: list[int], *, batch_size: int, steps: int) -> Iterator[str]:
    """A line for each owner, with what is worth a warning."""
    for count in sorted(rows):
        batches = count // batch_size
        begin = f"{count:>9}{batches:>9}"
        if batches < FEWEST_BATCHES:
            yield f"{begin}{0:>9}{0:>9}  takes no part: it has fewer than {FEWEST_BATCHES} batches"
            continue
        passes = passes_of(count, batch_size=batch_size, steps=steps)
        warning = f"  more than {MANY_PASSES} passes fit its rows closely" if passes > MANY_PASSES else ""
        yield f"{begin}{batches * batch_size:>9}{passes:>9.1f}{warning}"
