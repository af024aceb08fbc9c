"""`cloister study plan`: the numbers of a job, worked out before they are agreed on: its steps, or its noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from cloister.accounting.guessing import most_often_right
from cloister.accounting.proposals import LEAST, RATES, ROUNDS, plan_for
from cloister.charter.jobs import FEWEST_BATCHES
from cloister.errors import ConfigurationError
from cloister.study.epochs import MANY_PASSES, passes_of, steps_of


def plan(
    owners: Annotated[
        list[int] | None,
        typer.Argument(metavar="ROWS...", help="How many rows each owner has, roughly.", show_default=False),
    ] = None,
    *,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of every owner in every step.")] = 32,
    epochs: Annotated[float, typer.Option(help="Passes of the owner in the middle over its rows, in a round.")] = 1.0,
    epsilon: Annotated[float | None, typer.Option(help="Propose noise that keeps this epsilon.")] = None,
    delta: Annotated[float | None, typer.Option(help="The delta of --epsilon, well below 1 in all rows.")] = None,
    rows: Annotated[
        int | None, typer.Option(help="With --epsilon: the rows of all owners together, in the place of ROWS...")
    ] = None,
    rounds: Annotated[
        list[int] | None, typer.Option(help="With --epsilon: for so many rounds; may be said again.")
    ] = None,
    rate: Annotated[
        list[float] | None, typer.Option(help="With --epsilon: a row is in a round so often; may be said again.")
    ] = None,
    least_multiplier: Annotated[float, typer.Option(help="With --epsilon: no noise multiplier below this.")] = LEAST,
) -> None:
    """Make steps of epochs: a job's steps are the same for all owners, and each of them is of whole batches.

    With --epsilon, propose noise instead: how much of it, at which sampling rate, keeps epsilon over how many rounds.
    """
    each = owners or []
    if epsilon is None and (delta or rows or rounds or rate):
        raise ConfigurationError("--delta, --rows, --rounds and --rate are about noise: say --epsilon too")
    if epsilon is None:
        lines = _steps(each, batch_size=batch_size, epochs=epochs)
    elif delta is None:
        raise ConfigurationError("an epsilon holds at a delta: say --delta too, 1e-5 for instance")
    else:
        lines = _noise(
            epsilon,
            delta=delta,
            rows=sum(each) if rows is None else rows,
            rounds=rounds or ROUNDS,
            rates=rate or RATES,
            least_multiplier=least_multiplier,
        )
    for line in lines:
        typer.echo(line)


def _steps(rows: list[int], *, batch_size: int, epochs: float) -> Iterator[str]:
    """A job's steps, and a line for each owner, with what is worth a warning."""
    if not epochs > 0 or min(rows, default=0) < 1:
        raise ConfigurationError("epochs are more than 0, and each owner has at least one row; say other numbers")
    steps = steps_of(rows, batch_size=batch_size, epochs=epochs)
    yield f"batch_size = {batch_size}\nsteps = {steps}\n"
    yield f"{'rows':>9}{'batches':>9}{'used':>9}{'passes':>9}"
    for count in sorted(rows):
        batches = count // batch_size
        begin = f"{count:>9}{batches:>9}"
        if batches < FEWEST_BATCHES:
            yield f"{begin}{0:>9}{0:>9}  takes no part: it has fewer than {FEWEST_BATCHES} batches"
            continue
        passes = passes_of(count, batch_size=batch_size, steps=steps)
        warning = f"  more than {MANY_PASSES} passes fit its rows closely" if passes > MANY_PASSES else ""
        yield f"{begin}{batches * batch_size:>9}{passes:>9.1f}{warning}"


def _noise(
    epsilon: float,
    *,
    delta: float,
    rows: int,
    rounds: Sequence[int],
    rates: Sequence[float],
    least_multiplier: float,
) -> Iterator[str]:
    """The proposals, the least noise first, and what epsilon bounds."""
    found = plan_for(epsilon, delta=delta, rows=rows, rounds=rounds, rates=rates, least_multiplier=least_multiplier)
    if not found:
        raise ConfigurationError(f"no noise keeps an epsilon of {epsilon:g} so; say fewer rounds, or a larger epsilon")
    yield f"epsilon {epsilon:g} at delta {delta:g}, for {rows} rows\n"
    yield f"{'rate':>9}{'rows':>9}{'rounds':>9}{'multiplier':>12}{'epsilon':>9}{'noise':>9}"
    for each in found:
        yield (
            f"{each.rate:>9g}{each.rate * rows:>9.0f}{each.rounds:>9}{each.multiplier:>12g}{each.epsilon:>9.3g}"
            f"{each.noise:>9.4f}"
        )
    yield "\nnoise: its deviation in each coordinate of a round's mean, for rows that are clipped to length 1"
    right = most_often_right(epsilon, delta=delta)
    yield f"epsilon: whoever sees all that came out, and guesses whether one row was there, is right {right:.1%} of the"
    yield "  time at most; a coin is right half of it"
    if delta * rows >= 1:
        yield f"delta: it is 1 in {rows} rows or more, and to publish a row would keep that; say a smaller one"
