"""The rounds of a run as scalars for TensorBoard, which reads them from a folder, also while the run goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import TYPE_CHECKING, Any, Final

from cloister.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from cloister.study.history import Round

_FIRST: Final = 1


@contextmanager
def board(folder: str | PathLike[str], *, rounds: Sequence[Round] = ()) -> Iterator[Callable[[Round], None]]:
    """Writes ``rounds``, and then each round that what it yields is called with, so that it can be seen at once.

    The metrics of a round stand under ``training/``, those of ``evaluate`` under ``evaluation/``; ``round/`` holds how
    many owners and examples took part and the seconds. The steps are the rounds' numbers. What stood in ``folder`` of
    an earlier run gives way, so that a run that is gone on with is shown once and whole.

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
        "round/owners": len(done.owners),
        **({} if done.examples is None else {"round/examples": done.examples}),
        "round/seconds": done.seconds,
    }


@contextmanager
def _of(folder: str | PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        raise ConfigurationError(f"TensorBoard's folder {folder} cannot be written: {fault}") from fault
