"""`cloister study`: what a researcher works out before owners are asked to sign, and what these then read."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from cloister import files
from cloister.charter.charter import FORMAT as CHARTER_FORMAT
from cloister.charter.charter import MEMBERS, check_valid
from cloister.charter.signatures import FILE_BYTES as SIGNATURE_BYTES
from cloister.cli.attest import CollateralOption
from cloister.cli.study_plan import plan
from cloister.errors import CharterError, ConfigurationError
from cloister.files import matching
from cloister.net.files import read_charter
from cloister.net.identity import Identity
from cloister.net.policy import AttestationPolicy
from cloister.net.signatures import signatures_beside
from cloister.study.log import ROUNDS, rounds_of
from cloister.study.published import published_values
from cloister.study.status import StudyStatus, ask, dial
from cloister.study.study_diff import diff as differing
from cloister.study.study_file import FILE_BYTES, StudyFile, decode
from cloister.study.study_page import page
from cloister.tables import TEXT_BYTES
from cloister.wire.rounds import Ask, Stop

_CHARTER: Final = f'"{CHARTER_FORMAT}"'.encode()
"""What a charter's text holds, and only a charter's."""

app: Final = typer.Typer(no_args_is_help=True)


StudyPath = Annotated[Path, typer.Argument(metavar="FILE.STUDY", help="The study file.", show_default=False)]


@app.callback()
def _study() -> None:
    """Plan a study, read what one would do, and see how one stands."""


@app.command()
def show(
    path: StudyPath,
    *,
    code: Annotated[bool, typer.Option("--code", help="Print all operations of the plans.")] = False,
    first_model: Annotated[
        Path | None, typer.Option(help="The published file of the first model (safetensors), to look into it too.")
    ] = None,
) -> None:
    """Print all that an owner signs: what is computed, on which columns, what leaves, what comes out, and warnings.

    Nothing of it is run, and PyTorch is not needed.
    """
    study = read_study(path)
    if first_model is not None:
        study = replace(study, vector=published_values(study, first_model))
    for line in page(study, code=code):
        typer.echo(line)


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD.STUDY", help="The study file before.", show_default=False)],
    new: Annotated[Path, typer.Argument(metavar="NEW.STUDY", help="The one after.", show_default=False)],
) -> None:
    """Print what a study file says otherwise than another, line by line."""
    found = differing(read_study(old), read_study(new))
    for line in found or ["they say the same"]:
        typer.echo(line)


@app.command()
def unpack(
    path: StudyPath,
    charter: Annotated[
        Path | None,
        typer.Argument(
            help="The file to write; it must not exist. By default the study file's name, with .toml.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write the charter in a study file to a file of its own, for a node or an aggregator, with the signatures so far.

    `charter sign` keeps a study file's signatures where those of this file are looked for, unless it is called
    otherwise: then they are copied.
    """
    study = read_study(path)
    file = path.with_suffix(".toml") if charter is None else charter
    signatures = _signatures(path, file)
    try:
        with file.open("x", encoding="utf-8") as written:
            written.write(study.charter_text)
    except FileExistsError:
        raise ConfigurationError(f"{file} exists and is not overwritten; name another file") from None
    except OSError as fault:
        raise ConfigurationError(f"{file} cannot be written: {fault.strerror}") from None
    typer.echo(f"wrote {file}, {study.charter.digest.hex()}")
    folder = signatures_beside(file)
    _write_signatures(signatures)
    found = len(matching(folder, "*.sig", limit=MEMBERS))
    typer.echo(f"its signatures lie in {folder}: {found} so far; put there what other members send you")


@app.command()
def model(
    state: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="What the researcher's script keeps: charter.rounds beside charter.toml.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file to write; it must not exist.")] = Path("model.safetensors"),
) -> None:
    """Write the newest model that a study released, with the names of its state_dict, as safetensors.

    Nothing is connected to. In Python, safetensors.torch.load_model(model, FILE) reads it.
    """
    from cloister.study.newest_model import write_newest  # its PyTorch is for those who have models

    written = write_newest(state, out)
    typer.echo(f"wrote {out}: {written.tensors} tensors, released by round {written.round}, {written.digest.hex()}")
    typer.echo(
        f"That its owners have signed for it: cloister ledger audit {state / 'chain.jsonl'} --charter CHARTER.TOML"
    )


CharterPath = Annotated[Path, typer.Argument(metavar="CHARTER.TOML", help="The charter.", show_default=False)]
IdentityOption = Annotated[Path, typer.Option(help="Your identity file, whose key the charter names.")]
AtOption = Annotated[str | None, typer.Option(help="Where to dial, if the way there is another (a tunnel): host:port.")]
SimulatedOption = Annotated[
    bool, typer.Option("--accept-simulated", help="Let a simulated TEE pass. It proves nothing.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="For machines.")]


@app.command()
def status(
    charter: CharterPath,
    *,
    identity: IdentityOption,
    at: AtOption = None,
    collateral: CollateralOption = None,
    accept_simulated: SimulatedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Ask the aggregator how a study stands: which round, what it waits for, who is out of it and why.

    Any member may ask, also while a script of its runs. The aggregator proves itself first.
    """
    found = _asked(Ask(), charter, identity, at=at, collateral=collateral, accept_simulated=accept_simulated)
    typer.echo(json.dumps(found.describe()) if as_json else str(found))


@app.command()
def stop(
    charter: CharterPath,
    *,
    identity: IdentityOption,
    at: AtOption = None,
    collateral: CollateralOption = None,
    accept_simulated: SimulatedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Stop the job that runs, and the round that is under way unless owners were asked to commit it.

    For the researcher whose job it is; for another one, while that one is not there.
    """
    found = _asked(Stop(), charter, identity, at=at, collateral=collateral, accept_simulated=accept_simulated)
    typer.echo(json.dumps(found.describe()) if as_json else str(found))


@app.command()
def log(
    charter: CharterPath,
    chain: Annotated[
        Path | None,
        typer.Argument(
            help="A chain of receipts, or a folder with one; by default the charter's name, with .rounds.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print the rounds that were released, from a researcher's folder or a chain: owners, metrics, who committed.

    Nothing is connected to. Records are verified, and instances are not: `cloister ledger audit` does both.
    """
    agreed = read_charter(charter)
    for line in rounds_of(charter.with_suffix(ROUNDS) if chain is None else chain, charter=agreed):
        typer.echo(line)


def _asked(
    message: Ask | Stop,
    charter: Path,
    identity: Path,
    *,
    at: str | None,
    collateral: str | None,
    accept_simulated: bool,
) -> StudyStatus:
    """What the charter's aggregator answers.

    Raises:
        CharterError: the charter has faults, is not valid now, or does not name the identity.
    """
    agreed, own = read_charter(charter), Identity.load(identity)
    check_valid(agreed, now=datetime.now(UTC))
    if agreed.member(own.fingerprint) is None:
        raise CharterError(
            f"the charter {agreed.name!r} does not name {own.fingerprint}: name a member's identity file"
        )
    policy = AttestationPolicy(charter=agreed, accept_simulated=accept_simulated, collateral=collateral)
    routes = {} if at is None else dict.fromkeys(agreed.addresses, at)
    with dial(policy, identity=own, routes=routes) as attested:
        return ask(attested, message, charter=agreed)


def _signatures(path: Path, file: Path) -> dict[Path, str]:
    """The study file's signatures, and where they have to lie for the charter in ``file``; none that are there.

    Raises:
        ConfigurationError: another signature is there. CharterError: one cannot be read.
    """
    found: dict[Path, str] = {}
    for source in matching(signatures_beside(path), "*.sig", limit=MEMBERS):
        target = signatures_beside(file) / source.name
        text = files.read_text(source, limit=SIGNATURE_BYTES, error=CharterError)
        if not target.exists():
            found[target] = text
        elif files.read_text(target, limit=SIGNATURE_BYTES, error=CharterError) != text:
            raise ConfigurationError(f"{target} is another signature than {source}; remove it, or name another file")
    return found


def _write_signatures(signatures: dict[Path, str]) -> None:
    for target, text in signatures.items():
        try:
            target.parent.mkdir(exist_ok=True)
            target.write_text(text, encoding="utf-8")
        except OSError as fault:
            raise ConfigurationError(f"{target} cannot be written: {fault.strerror}") from None


def read_study(path: Path) -> StudyFile:
    """The study file at a path.

    Raises:
        CharterError: it cannot be read, or is none.
    """
    try:
        data = files.read(path, limit=FILE_BYTES)
        return decode(data)
    except OSError as fault:
        raise CharterError(
            f"{path} cannot be read: {fault.strerror}; name a study file, such as cloister.write_study makes"
        ) from None
    except CharterError as fault:
        if _CHARTER in data[:TEXT_BYTES]:
            raise CharterError(
                f"{path} is a charter, and a study file is wanted here: `cloister charter show {path}` prints it, and"
                " cloister.write_study makes a study file of it"
            ) from None
        raise CharterError(f"{path}: {fault}") from None


app.command()(plan)
