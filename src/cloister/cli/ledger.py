"""``cloister ledger``: verify a chain of receipts from files alone, or print what it says.

Exit codes: 0 it holds, 1 it does not, or misuse; an instance's evidence that does not stand gives 2 (not genuine, or no
evidence), 3 (not decided, for want of collateral) or 4 (genuine, but not acceptable).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from cloister import files
from cloister.accounting.accountant import Spent, epsilon
from cloister.attest.facts import facts
from cloister.charter.names import shown
from cloister.charter.summary import job
from cloister.cli.attest import CollateralOption, Noun, NowOption
from cloister.errors import ConfigurationError, LedgerError, MissingDependencyError
from cloister.ledger.audit import Report, audit, used_once
from cloister.ledger.chain import Receipt
from cloister.ledger.jsonl import LINE_BYTES, describe, read_lines, written
from cloister.net.collateral import source
from cloister.net.files import read_charter
from cloister.study.privacy import rounded_up
from cloister.wire.text import exact, visible

app: Final = typer.Typer(cls=Noun, no_args_is_help=True)

DIGITS: Final = 64

ChainFile = Annotated[Path, typer.Argument(metavar="CHAIN.JSONL", help="The chain.", show_default=False)]


def _commitment(text: str) -> bytes:
    try:
        if len(text) == DIGITS and text.isascii():
            return bytes.fromhex(text)
    except ValueError:
        pass
    raise typer.BadParameter(f"a commitment is {DIGITS} hexadecimal digits; your node's log has it")


@app.callback()
def _ledger() -> None:
    """Verify a chain of receipts, or print it."""


@app.command("audit")
def audit_file(
    path: ChainFile,
    *,
    charter: Annotated[Path, typer.Option(help="The charter that it is of.", show_default=False)],
    collateral: CollateralOption = None,
    accept_simulated: Annotated[
        bool, typer.Option("--accept-simulated", help="Let simulated TEEs pass. They prove nothing.")
    ] = False,
    contribution: Annotated[
        bytes | None,
        typer.Option(
            parser=_commitment, metavar="HEX", help="Say also which round used the contribution of this commitment."
        ),
    ] = None,
    now: NowOption = None,
) -> None:
    """Verify every record of a chain, offline, and print what it shows. Evidence is judged as of its record's time."""
    report = audit(
        _records(path),
        charter=read_charter(charter),
        collateral=source(collateral),
        accept_simulated=accept_simulated,
        now=now,
    )
    used = None if contribution is None else used_once(report.ledger, contribution)
    for line in told(report, used, now=now):
        typer.echo(visible(line))


@app.command()
def show(path: ChainFile) -> None:
    """Print what the records of a chain say, one JSON object a line. Nothing of it is verified."""
    for record in _records(path):
        typer.echo(json.dumps(describe(record)))


def _records(path: Path) -> Iterator[bytes]:
    """The records in a regular file.

    Raises:
        ConfigurationError: it cannot be read. LedgerError: a line of it holds no record.
    """
    try:
        yield from read_lines(files.lines(path, limit=LINE_BYTES))
    except OSError as fault:
        raise ConfigurationError(f"{path} cannot be read: {fault.strerror}; name a chain of receipts") from None
    except LedgerError as fault:
        raise LedgerError(f"{path}, {fault}; name a chain of receipts, such as a study's chain.jsonl") from None


def told(report: Report, used: Receipt | None = None, *, now: datetime | None = None) -> Iterator[str]:
    """The lines that the audit prints. ``used``: the round that used the contribution that was asked for."""
    ledger, limits = report.ledger, report.ledger.charter.limits
    yield f"charter     {shown(ledger.charter.name)}, {ledger.charter.digest.hex()}"
    yield f"records     {ledger.sequence}, all of one chain; the newest is {ledger.head.hex() or 'none'}"
    yield f"rounds      {ledger.released} released, of {limits.rounds} in all"
    if report.gaps:
        yield f"void        {', '.join(_range(gap) for gap in report.gaps)}"
    for instance, verified in zip(ledger.instances, report.verified, strict=True):
        found = facts(verified.claims)
        judged = written(instance.record.time) if now is None else now.isoformat()
        yield (
            f"instance    record {instance.record.sequence}: {found.tee}, {shown(verified.entry.name)},"
            f" judged as of {judged}"
        )
    if any(instance.transcript.tee == "simulated" for instance in ledger.instances):
        yield "            a simulated TEE proves nothing: anyone can make such an instance"
    for each in report.computed:
        yield f"job         {shown(each.agreed.name)}, {each.job.hex()}: {each.rounds} rounds, each computed alike"
        told = {"first model": each.start.hex(), **job(each.agreed)}
        yield from (f"  {name:<20}{phrase}" for name, phrase in told.items())
    for name, count in report.contributed.items():
        yield f"owner       {shown(name)}: contributed to {count}, committed {report.committed[name]}"
    yield from _privacy(report)
    yield f"model       {ledger.model.hex() if ledger.model is not None else 'none'}"
    if used is not None:
        yield f"used        once, in round {used.cohort.round} (record {used.cohort.sequence})"
    yield "That no newer record exists, no chain can show: compare the newest with other members'."


def epsilons(report: Report) -> dict[str, float]:
    """What the rounds of this chain tell at most of one record of each owner, or of the owner, at the charter's delta;
    by the owners' names. Nothing where the charter has no noise.

    Raises:
        MissingDependencyError: dp-accounting is not installed.
    """
    noise = report.ledger.charter.limits.noise
    if noise is None:
        return {}
    return {
        name: epsilon([Spent(*of, rounds) for of, rounds in counts.items()], delta=noise.delta)
        for name, counts in report.spent.items()
    }


def _privacy(report: Report) -> Iterator[str]:
    noise = report.ledger.charter.limits.noise
    if noise is None:
        return
    try:
        found = epsilons(report)
    except MissingDependencyError as fault:
        yield f"privacy     {fault}"
        return
    for name, each in found.items():
        whose = f"one record of {shown(name)}" if noise.unit == "record" else shown(name)
        yield f"privacy     of {whose}: epsilon {rounded_up(each)} at delta {exact(noise.delta)}"


def _range(numbers: range) -> str:
    return str(numbers.start) if len(numbers) == 1 else f"{numbers.start} to {numbers.stop - 1}"
