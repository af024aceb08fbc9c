"""`cloister charter`: write, look over, sign, show and encode the file that the members agree on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Annotated, Final

import typer

from cloister.charter import Charter
from cloister.charter.names import shown
from cloister.charter.signatures import Signature, verify
from cloister.charter.signatures import encode as encode_signature
from cloister.charter.signatures import sign as sign_charter
from cloister.charter.summary import drawn, heading, job, limits, member, software
from cloister.charter.template import template
from cloister.charter.warnings import warnings_of
from cloister.cli import succession
from cloister.errors import CharterError, ConfigurationError, meant
from cloister.net.files import read_charter
from cloister.net.identity import private_key
from cloister.net.signatures import read_signatures, signatures_beside
from cloister.study.privacy import privacy
from cloister.wire.text import visible

app: Final = typer.Typer(no_args_is_help=True)
app.command("succeed")(succession.succeed_)
app.command("diff")(succession.diff)
app.command("hand-over")(succession.hand_over_)

STUDY: Final = ".study"
"""The end of a study file's name."""
_DIGITS: Final = re.compile("[0-9]+")
"""Tags that differ in these alone, in a year say, are meant to differ."""

CharterFile = Annotated[Path, typer.Argument(metavar="CHARTER.TOML", help="The charter.", show_default=False)]


@app.command()
def new(
    path: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")] = Path("charter.toml"),
    *,
    name: Annotated[str, typer.Option(help="What the charter is called.", show_default=False)],
) -> None:
    """Write a charter to fill in, with a comment on every key."""
    _write_new(path, template(name, now=datetime.now(UTC)).encode())
    typer.echo(f"wrote {path}. Next: fill it in, then cloister charter check {path}")


@app.command()
def check(path: CharterFile) -> None:
    """Look a charter over: list every fault and every warning, say what its noise is worth and who has signed."""
    charter = _read(path)
    _echo(_heading(charter))
    signed, refused = _signed(charter, signatures_beside(path))
    _echo(_members(charter, signed))
    _echo(privacy(charter))
    _echo(_warnings(charter))
    _echo(_hints(charter))
    _echo(refused)
    missing = [owner.name for owner in charter.owners if owner.key not in signed]
    if refused:
        raise CharterError(
            f"{signatures_beside(path)} holds signatures that do not stand: remove them, or have them made anew"
        )
    if missing:
        typer.echo(f"\n{path} has no faults; the signature of {', '.join(map(shown, missing))} is missing")
    else:
        typer.echo(f"\n{path} has no faults, and all owners have signed it")


@app.command()
def sign(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="The study file, or a charter.toml.", show_default=False)
    ],
    *,
    key: Annotated[Path, typer.Option(help="Your identity file, from: cloister key new.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: it was read before.")] = False,
) -> None:
    """Sign a charter with your key, after you have read what it says: all of a study file is shown here first."""
    if path.suffix == STUDY:
        # Its NumPy is for those who look into models.
        from cloister.cli.study import read_study
        from cloister.study.study_page import page

        study = read_study(path)
        charter, shown_first = study.charter, iter(page(study))
    else:
        charter = _read(path)
        shown_first = chain(_heading(charter), _terms(charter), _jobs(charter), privacy(charter), _warnings(charter))
    signature = sign_charter(charter, key=private_key(key))
    signer = verify(signature, charter=charter)
    _echo(shown_first)
    if not yes and not _agrees(signer.name, charter.digest):
        raise CharterError("it is not signed")
    file = signatures_beside(path) / f"{signer.name}.sig"
    try:
        file.parent.mkdir(exist_ok=True)
        file.write_text(encode_signature(signature), encoding="utf-8")
    except OSError as fault:
        raise ConfigurationError(f"{file} cannot be written: {fault.strerror}") from None
    typer.echo(
        f"\n{charter.digest.hex()} is signed as {shown(signer.name)} ({signer.role}): {file}. Give that file to the"
        " other members; what they sign has to have the same digest."
    )


def _agrees(name: str, digest: bytes) -> bool:
    """Whether a person says yes."""
    try:
        return typer.confirm(f"\nSign {digest.hex()} as {shown(name)}?")
    except typer.Abort:
        raise CharterError("it is not signed: nobody is there to say so; --yes is for whoever has read it") from None


@app.command()
def show(path: CharterFile) -> None:
    """Print what a charter says."""
    charter = _read(path)
    _echo(_heading(charter))
    _echo(_terms(charter))
    _echo(_jobs(charter))


@app.command()
def encode(
    path: CharterFile,
    encoded: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")] = Path("charter.cbor"),
) -> None:
    """Write a charter as an aggregator in a TEE reads it: the bytes whose SHA-256 is the charter's digest."""
    charter = _read(path)
    _write_new(encoded, charter.encoded)
    typer.echo(f"wrote {encoded}; sha256sum {encoded} prints the charter's digest:\n{charter.digest.hex()}")


def _write_new(path: Path, data: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        raise ConfigurationError(f"{path} exists and is not overwritten; name another file") from None
    except OSError as fault:
        raise ConfigurationError(f"{path} cannot be written: {fault.strerror}") from None


def _read(path: Path) -> Charter:
    return read_charter(path, error=CharterError)


def _signed(charter: Charter, folder: Path) -> tuple[set[str], list[str]]:
    """The keys that have signed, and what is wrong with the signatures that cannot stand."""
    signed: set[str] = set()
    refused: list[str] = []
    found: tuple[Signature, ...] = read_signatures(folder)
    for signature in found:
        try:
            signed.add(verify(signature, charter=charter).key)
        except CharterError as fault:
            refused.append(f"refused     {fault}")
    return signed, refused


def _heading(charter: Charter) -> Iterator[str]:
    yield from (f"{name:<12}{phrase}" for name, phrase in heading(charter))


def _members(charter: Charter, signed: set[str] | None) -> Iterator[str]:
    for each in charter.members:
        state = "" if signed is None else ", signed" if each.key in signed else ", NOT SIGNED"
        yield f"{each.role:<12}{member(each)}{state}"


def _terms(charter: Charter) -> Iterator[str]:
    """Who and which software there is, what may leave, and what the first model is drawn from."""
    yield from _members(charter, None)
    yield from (f"aggregator  {address}" for address in charter.addresses)
    for entry in charter.reference:
        yield ""
        yield f"software    {shown(entry.name)}: {entry.tee}"
        yield from (f"  {name:<20}{phrase}" for name, phrase in software(entry) if name != "name")
    yield ""
    yield "limits"
    yield from (f"  {name:<20}{phrase}" for name, phrase in limits(charter.limits).items())
    if charter.recipe:
        yield ""
        yield "first model, drawn from"
        yield from (f"  {drawn(entry)}" for entry in charter.recipe)
    for base in charter.bases:
        yield ""
        yield f"base        {shown(base.name)}: what no job learns, in files that each owner has"
        yield from (f"  {file.hex()}" for file in base.files)


def _jobs(charter: Charter) -> Iterator[str]:
    """What owners' nodes will compute, number by number."""
    for agreed in charter.jobs:
        yield ""
        yield f"job         {shown(agreed.name)}"
        yield from (f"  {name:<20}{phrase}" for name, phrase in job(agreed).items())


def _warnings(charter: Charter) -> Iterator[str]:
    yield from (f"warning     {each}" for each in warnings_of(charter))


def _hints(charter: Charter) -> Iterator[str]:
    tags = sorted({job.data for job in charter.jobs})
    for at, tag in enumerate(tags):
        near = meant(tag, [other for other in tags[:at] if _DIGITS.sub("", other) != _DIGITS.sub("", tag)])
        if near:
            yield f"hint        one job is for the data {tag!a}, and another's tag is nearly that{near}"
    if charter.recipe:
        # Its NumPy is for those who draw models.
        from cloister.study.redrawn import stale

        hint = stale(charter)
        yield from [] if hint is None else [f"hint        {hint}"]


def _echo(lines: Iterable[str]) -> None:
    """Prints lines, none of which is more than one."""
    for line in lines:
        typer.echo(visible(line))
