"""``cloister demo``."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

from cloister import files
from cloister.cli.ledger import told
from cloister.errors import ConfigurationError
from cloister.ledger.audit import audit
from cloister.ledger.chain import Ledger
from cloister.ledger.jsonl import LINE_BYTES, read_lines
from cloister.net.collateral import no_collateral

if TYPE_CHECKING:
    from cloister.charter import Charter
    from cloister.demo.hospitals import Patients
    from cloister.study.study import StudyRun
    from cloister.testing.studies import LocalStudy
    from cloister.worker.plans import Plan

_VERDICT: Final = r"the aggregator at \S+ is (verified: .*)"
_VERDICT_S: Final = 60.0
_CHARTER: Final = "charter.toml"
_CHAIN: Final = Path("charter.rounds", "chain.jsonl")
_PATIENCE_S: Final = 30.0


def demo(
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="How many rounds to train.")] = 40,
    keep: Annotated[
        Path | None, typer.Option(help="An empty folder for keys, configurations and logs, to look at afterwards.")
    ] = None,
) -> None:
    """Three hospitals train one model, each in its own process, on data that stays there; then three attacks on it."""
    started = monotonic()
    if keep is not None:
        try:
            keep.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise ConfigurationError(f"{keep} cannot be made: {fault.strerror}; name another folder") from None
        _run(keep.absolute(), rounds, left=keep.absolute(), started=started)
        return
    with tempfile.TemporaryDirectory(prefix="cloister-demo-") as folder:
        _run(Path(folder), rounds, left=None, started=started)


def _run(folder: Path, rounds: int, *, left: Path | None, started: float) -> None:
    import torch

    from cloister.demo import attacks, hospitals, screen, training

    console = Console()
    torch.set_num_threads(1)  # as at the nodes: batches of 32 patients are too small to share
    parts, held_out = hospitals.split(hospitals.load())
    counts = {name: (len(part), int(part.y.sum())) for name, part in parts.items()}
    screen.introduce(console, counts, held_out=len(held_out))
    plan = training.captured(training.diagnose)
    with training.gather(folder, parts, plan, rounds=rounds) as local:
        screen.agree(console, local.charter)
        with console.status("starting an aggregator and three hospitals, each a process of its own"):
            local.start_aggregator()
            local.start()
            local.gather(within_s=_VERDICT_S)
            verdicts = {name: local.found(name, _VERDICT, within_s=_VERDICT_S) for name in parts}
        screen.attested(console, verdicts)
        spent = partial(_epsilon, local.charter)
        run = _train(console, local, plan, rounds, held_out, spent)
        with console.status("training each hospital alone, and all data pooled, to compare"):
            alone = {
                name: training.accuracy(training.train_at_one_place(part, plan), held_out)
                for name, part in parts.items()
            }
            pooled = training.train_at_one_place(hospitals.pool(parts), plan)
            without_noise = training.train_without_noise(parts, plan)
        screen.compare(
            console,
            alone,
            federated=training.accuracy(run.model, held_out),
            epsilon=spent(rounds),
            without_noise=training.accuracy(without_noise, held_out),
            pooled=training.accuracy(pooled, held_out),
        )
        ledger = Ledger.from_records(local.charter, _records(folder))
        attacks.attempt(console, local, ledger, plan, rounds=rounds)
    report = audit(_records(folder), charter=local.charter, collateral=no_collateral, accept_simulated=True)
    screen.audit(console, told(report), command=_command(left or _rescue(folder)))
    screen.finish(console, seconds=monotonic() - started)


def _epsilon(charter: Charter, rounds: int) -> float:
    """What so many rounds under a charter with one job cost each patient."""
    from cloister.accounting.accountant import Spent, epsilon
    from cloister.ledger.noise import noise_of

    (job,), noise = charter.jobs, charter.limits.noise
    told = noise_of(charter.limits, job)
    if noise is None or told is None:
        raise ConfigurationError("the demonstration is of a study with noise, and its charter has none")
    return epsilon([Spent(told.multiplier, told.rate, rounds)], delta=noise.delta)


def _train(
    console: Console,
    local: LocalStudy,
    plan: Plan,
    rounds: int,
    held_out: Patients,
    spent: Callable[[int], float],
) -> StudyRun:
    from cloister.demo import hospitals, screen, training

    with local.study(patience_s=_PATIENCE_S) as study, screen.Rounds(console, total=rounds, spent=spent) as show:
        run = study.fit(
            training.new_model(),
            plan,
            data=hospitals.TAG,
            rounds=rounds,
            sampling=local.charter.jobs[0].sampling,
            evaluate=lambda model: {"accuracy": training.accuracy(model, held_out)},
            on_round=show,
            **training.STUDIED,
        )
    if not run.finished:  # Ctrl-C, which a study takes as the wish to end after the round that is under way
        raise KeyboardInterrupt
    return run


def _records(folder: Path) -> list[bytes]:
    """All receipts, as the researcher's script has kept them."""
    return list(read_lines(files.lines(folder / _CHAIN, limit=LINE_BYTES)))


def _rescue(folder: Path) -> Path:
    """What an audit needs, in a folder that stays: the charter and the chain, which are no secrets."""
    left = Path(tempfile.mkdtemp(prefix="cloister-demo-"))
    for name in (Path(_CHARTER), _CHAIN):
        (left / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / name, left / name)
    return left


def _command(folder: Path) -> str:
    chain, charter = (shlex.quote(str(folder / name)) for name in (_CHAIN, _CHARTER))
    return f"cloister ledger audit {chain} --charter {charter} --accept-simulated"
