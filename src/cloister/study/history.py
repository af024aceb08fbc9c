"""The history of a run, round by round: to read, to print, to plot, and for TensorBoard, also while the run goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table

from cloister.errors import ConfigurationError, MissingDependencyError
from cloister.tensor.plan.program import CLIPPED

_FIRST: Final = 1


@contextmanager
def board(folder: str | PathLike[str], *, rounds: Sequence[Round] = ()) -> Iterator[Callable[[Round], None]]:
    """Writes ``rounds``, and yields a function that writes another round, which can then be seen at once.

    The metrics of a round are under ``training/``, those of ``evaluate`` under ``evaluation/``, what is known of
    clipping under ``clipping/``; ``round/`` holds the numbers of owners and examples, and the seconds. The steps are
    the rounds' numbers. An earlier run in ``folder`` is hidden, so that a resumed run is shown once and whole.

    Raises:
        MissingDependencyError: tensorboard is not installed.
        ConfigurationError: the folder cannot be written.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as fault:
        raise MissingDependencyError(
            f"TensorBoard's files need {fault.name}, which is not installed: pip install 'cloister[plots]'"
        ) from fault
    with _of(folder):
        writer: Any = SummaryWriter(folder, purge_step=_FIRST)

    def write(*done: Round) -> None:
        with _of(folder):
            for each in done:
                for tag, value in _scalars(each).items():
                    writer.add_scalar(tag, value, each.number)
            writer.flush()

    try:
        write(*rounds)
        yield write
    finally:
        with _of(folder):
            writer.close()


def _scalars(done: Round) -> dict[str, float]:
    return {
        **{f"training/{name}": value for name, value in done.metrics.items()},
        **{f"evaluation/{name}": value for name, value in done.evaluation.items()},
        **{f"clipping/{name}": value for name, value in done.clipping.items()},
        "round/owners": len(done.owners),
        **({} if done.examples is None else {"round/examples": done.examples}),
        "round/seconds": done.took_s,
    }


@contextmanager
def _of(folder: str | PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        raise ConfigurationError(f"TensorBoard's folder {folder} cannot be written: {fault}") from fault


_EVALUATED = "evaluated "


@dataclass(frozen=True)
class Round:
    """One round.

    ``number`` counts from 1; ``owners`` are the names of those that took part; ``examples`` is the number of their
    rows, which only a simulation knows; ``metrics`` are means over the owners' training, weighted by examples, in a
    study by shares; ``evaluation`` is what ``evaluate`` returned for the new model. ``took_s`` is the round's time in
    seconds; two rounds may be equal with different times. ``weights`` are the owners' shares of the mean, where they
    are known, as in a study. ``absent`` says of owners that did not take part why not, as far as this run heard of it.
    ``clipping`` is of a simulation: the share of the updates that were ``clipped``, and of their parameters' norms
    before that the mean, ``update_norm``, ``median_update_norm`` and ``largest_update_norm``. In a study the first two
    are metrics, where its charter lets them out.
    """

    number: int
    owners: tuple[str, ...]
    examples: int | None
    metrics: Mapping[str, float]
    evaluation: Mapping[str, float]
    took_s: float = field(compare=False)
    weights: Mapping[str, float] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict, compare=False)
    clipping: Mapping[str, float] = field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, float]:
        """All metrics; those of ``evaluate`` under names that begin with ``"evaluated "``."""
        return {**self.metrics, **{f"{_EVALUATED}{name}": value for name, value in self.evaluation.items()}}

    def __str__(self) -> str:
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in self.numbers.items())
        some = "1 owner" if len(self.owners) == 1 else f"{len(self.owners)} owners"
        examples = "" if self.examples is None else f"{self.examples:,} examples  "
        clipped = f"  {share:.0%} clipped" if (share := self.clipping.get(CLIPPED)) else ""
        without = f"  without {', '.join(sorted(self.absent))}" if self.absent else ""
        return f"round {self.number}  {some}  {examples}{numbers}  {self.took_s:.1f} s{clipped}{without}"


class History(Sequence[Round]):
    """The rounds of a run. ``print`` shows them as a table."""

    def __init__(self, rounds: Sequence[Round] = ()) -> None:
        self._rounds = tuple(rounds)

    def __getitem__(self, at: Any) -> Any:
        """A round, or those of a slice."""
        return self._rounds[at]

    def __len__(self) -> int:
        return len(self._rounds)

    def __iter__(self) -> Iterator[Round]:
        return iter(self._rounds)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, History) and self._rounds == other._rounds

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics that any of the rounds has."""
        return tuple({name: None for each in self._rounds for name in each.numbers})

    def series(self, name: str) -> list[float | None]:
        """One metric, or one of the numbers of ``Round.clipping``, round by round; None where a round has none.

        Raises:
            ConfigurationError: no round has it.
        """
        known = [{**each.clipping, **each.numbers} for each in self._rounds]
        if not any(name in each for each in known):
            there = ", ".join(dict.fromkeys([*self.names, *(key for each in known for key in each)])) or "none"
            raise ConfigurationError(f"there is no metric {name!r}; there are: {there}")
        return [each.get(name) for each in known]

    def plot(self, *names: str, axes: Any = None) -> Any:
        """The metrics of these names, or all, over the rounds; with matplotlib, on ``axes`` if given. Gives the axes.

        Raises:
            MissingDependencyError: matplotlib is not installed.
            ConfigurationError: there is no such metric.
        """
        lines = {name: self.series(name) for name in names or self.names}
        if axes is None:
            try:
                from matplotlib import pyplot
            except ModuleNotFoundError as fault:
                raise MissingDependencyError(
                    f"plot() needs {fault.name}, which is not installed: pip install 'cloister[plots]'"
                ) from fault
            axes = pyplot.subplots()[1]
        for name, values in lines.items():
            shown = [(each.number, value) for each, value in zip(self, values, strict=True) if value is not None]
            axes.plot(*zip(*shown, strict=True), label=name)
        axes.set_xlabel("round")
        axes.legend()
        return axes

    def to_tensorboard(self, folder: str | PathLike[str]) -> None:
        """Writes all rounds to ``folder``, for TensorBoard to show; ``simulate(tensorboard=)`` does so as they come.

        Raises:
            MissingDependencyError: tensorboard is not installed.
            ConfigurationError: the folder cannot be written.
        """
        with board(folder, rounds=self):
            pass

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, for rich."""
        names = self.names
        table = Table()
        counted = ["examples"] if any(each.examples is not None for each in self._rounds) else []
        absent = any(each.absent for each in self._rounds)
        clipped = [CLIPPED] if any(each.clipping.get(CLIPPED) for each in self._rounds) else []
        for column in ("round", "owners", *counted, *names, *clipped, "s"):
            table.add_column(column, justify="right")
        if absent:
            table.add_column("absent", overflow="fold")
        for each in self._rounds:
            found = [each.numbers.get(name) for name in names]
            shown = ("" if value is None else f"{value:.4g}" for value in found)
            examples = ["" if each.examples is None else f"{each.examples:,}" for _ in counted]
            shares = [f"{each.clipping.get(name, 0.0):.0%}" for name in clipped]
            row = (str(each.number), str(len(each.owners)), *examples, *shown, *shares, f"{each.took_s:.2f}")
            why = "; ".join(f"{name}: {why}" for name, why in sorted(each.absent.items()))
            table.add_row(*row, *([escape(why)] if absent else []))
        yield table

    def __str__(self) -> str:
        console = Console(width=200, color_system=None, force_terminal=False, force_jupyter=False)
        with console.capture() as captured:
            console.print(self)
        return captured.get().rstrip()
