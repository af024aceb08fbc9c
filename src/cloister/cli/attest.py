"""``cloister attest``: what an aggregator proves, what a piece of evidence says, what this machine would show.

Exit codes: 0 acceptable, 1 misuse, 2 not genuine or no evidence, 3 it could not be decided (network, collateral), 4
genuine but not acceptable.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from cloister import files
from cloister.attest.attester.simulated import SimulatedAttester
from cloister.attest.facts import Facts, facts
from cloister.attest.inspect import recognise, unverified
from cloister.attest.text import page
from cloister.attest.transcript import Role
from cloister.attest.verdict import Outcome, Verdict
from cloister.attest.verifier import authenticate
from cloister.charter.charter import check_valid
from cloister.charter.summary import rules
from cloister.cli.exits import FAILED, NOT_GENUINE, UNACCEPTABLE, UNREACHED
from cloister.errors import AttestationError, CharterError, ConfigurationError, NetworkError, WireError
from cloister.net.attested import attest_peer
from cloister.net.collateral import source
from cloister.net.files import read_charter
from cloister.net.identity import Identity
from cloister.net.policy import AttestationPolicy
from cloister.wire.limits import EVIDENCE_BYTES

_CODES: Final = {
    Outcome.ACCEPTABLE: 0,
    Outcome.GENUINE: 0,
    Outcome.UNVERIFIED: 0,
    Outcome.UNACCEPTABLE: UNACCEPTABLE,
    Outcome.NOT_GENUINE: NOT_GENUINE,
    Outcome.UNREADABLE: NOT_GENUINE,
    Outcome.UNDECIDED: UNREACHED,
}
_GOOD: Final = (Outcome.ACCEPTABLE, Outcome.GENUINE)

_UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # typer has no public name for it


class Noun(TyperGroup):
    """Wrong usage gives 1 here, since 2 says that evidence is not genuine."""

    def make_context(self, *arguments: Any, **extra: Any) -> Any:
        with _misuse():
            return super().make_context(*arguments, **extra)

    def invoke(self, context: Any) -> Any:
        with _misuse():
            return super().invoke(context)


@contextmanager
def _misuse() -> Iterator[None]:
    try:
        yield
    except _UsageError as fault:
        fault.exit_code = FAILED  # type: ignore[attr-defined]  # every error of typer's has one
        raise


app: Final = typer.Typer(cls=Noun, no_args_is_help=True)


class Format(StrEnum):
    """How a verdict is written."""

    TEXT = "text"
    JSON = "json"


class Measured(StrEnum):
    """What can be measured."""

    AGGREGATOR = "aggregator"
    NODE = "node"


def _moment(text: str) -> datetime:
    """A time as a user writes it: ISO 8601 with an offset, or seconds since 1970."""
    try:
        moment = datetime.fromtimestamp(int(text), UTC) if text.isascii() and text.isdigit() else None
        moment = moment or datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise typer.BadParameter("say in which offset from UTC, such as 2026-01-31T12:00:00+00:00")
        return moment.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise typer.BadParameter(
            "neither ISO 8601, such as 2026-01-31T12:00:00+00:00, nor seconds since 1970"
        ) from None


CollateralOption = Annotated[
    str | None, typer.Option(help="What the TEE's maker publishes: a file, or the URL of a PCCS (Intel) or KDS (AMD).")
]
FormatOption = Annotated[Format, typer.Option("--format", help="For a person, or for a machine.")]
NowOption = Annotated[
    datetime | None,
    typer.Option(parser=_moment, metavar="TIME", help="Judge as of another time: ISO 8601, or seconds since 1970."),
]


@app.callback()
def _attest() -> None:
    """See what an aggregator proves about itself."""


@app.command()
def verify(
    address: Annotated[str, typer.Argument(help="host:port, as the charter has it.", show_default=False)],
    *,
    charter: Annotated[Path, typer.Option(help="The charter that it has to run under.")],
    key: Annotated[Path | None, typer.Option(help="Your identity file. Without one you are nobody to it.")] = None,
    collateral: CollateralOption = None,
    at: Annotated[
        str | None, typer.Option(help="Where to dial, if the way there is another (a tunnel): host:port.")
    ] = None,
    accept_simulated: Annotated[
        bool, typer.Option("--accept-simulated", help="Let a simulated TEE pass. It proves nothing.")
    ] = False,
    form: FormatOption = Format.TEXT,
    now: NowOption = None,
) -> None:
    """Have an aggregator prove itself, and print the verdict. Nothing is sent to it but the question."""
    agreed = read_charter(charter)
    check_valid(agreed, now=now or datetime.now(UTC))
    if address not in agreed.addresses:
        listed = ", ".join(agreed.addresses)
        raise ConfigurationError(f"{address} is not an address of this charter's aggregator; it names: {listed}")
    identity = None if key is None else Identity.read(key)
    policy = AttestationPolicy(
        charter=agreed,
        accept_simulated=accept_simulated,
        collateral=collateral,
        clock=lambda: now or datetime.now(UTC),
    )
    try:
        with attest_peer(address, policy=policy, identity=identity, at=at) as attested:
            verdict = attested.verdict
    except (AttestationError, NetworkError, WireError, CharterError) as fault:
        verdict = Verdict.refused(fault, checked_at=policy.clock(), rules=rules(agreed), address=address)
    _tell(verdict, form)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="Evidence, or an RA-TLS certificate.", show_default=False)],
    *,
    collateral: CollateralOption = None,
    form: FormatOption = Format.TEXT,
    now: NowOption = None,
) -> None:
    """Print what a file with evidence says. Nothing of it is verified, unless you name the collateral."""
    checked_at = now or datetime.now(UTC)
    data = _read(file)
    found: Facts | None = None
    try:
        recognised = recognise(data)
        found = unverified(recognised)
        outcome = Outcome.UNVERIFIED
        if collateral is not None:
            evidence = recognised.evidence
            claims = authenticate(evidence, collateral=source(collateral)(evidence, checked_at), now=checked_at)
            found, outcome = facts(claims), Outcome.GENUINE
        verdict = Verdict(outcome=outcome, checked_at=checked_at, facts=found)
    except (AttestationError, NetworkError) as fault:
        verdict = Verdict.refused(fault, checked_at=checked_at, facts=found)
    _tell(verdict, form)


@app.command()
def measure(
    role: Annotated[Measured, typer.Argument(help="What would run.")] = Measured.AGGREGATOR,
) -> None:
    """Print the charter entry of what this installation would show as a simulated TEE. It proves nothing."""
    told: Role = "aggregator" if role is Measured.AGGREGATOR else "node"
    attester = SimulatedAttester.start(told)
    typer.echo(_ENTRY.format(role=told, measurement=attester.measurement.hex(), svn=attester.svn), nl=False)


_ENTRY: Final = """\
[[software]]
name = "{role}, simulated"
tee = "simulated"                # rehearses, and proves nothing
measurement = ["{measurement}"]
min_svn = {svn}
platforms = "any"
"""


def _tell(verdict: Verdict, form: Format) -> None:
    """Prints the verdict and ends the command with its exit code."""
    if form is Format.JSON:
        typer.echo(json.dumps(verdict.as_dict(), indent=2))  # ASCII only, so no escape sequence reaches a terminal
    else:
        console = Console(highlight=False, soft_wrap=True)
        colour = "bold green" if verdict.outcome in _GOOD else "bold red"
        if verdict.outcome is Outcome.UNVERIFIED or (verdict.facts is not None and verdict.facts.tee == "simulated"):
            colour = "bold yellow"
        for number, line in enumerate(page(verdict)):
            style = colour if number == 0 else "" if line.startswith(" ") else "bold"
            console.print(Text(line, style=style))
    raise typer.Exit(_CODES[verdict.outcome])


def _read(file: Path) -> bytes:
    """A regular file's bytes; of one that is too long, one more than evidence can have, which nobody takes for any.

    Raises:
        ConfigurationError: it cannot be read, or is no regular file.
    """
    try:
        with files.opened(file) as opened:
            return opened.read(EVIDENCE_BYTES + 1)
    except OSError as fault:
        raise ConfigurationError(f"{file} cannot be read: {fault.strerror}; name a file with evidence") from None
