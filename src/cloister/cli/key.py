"""`cloister key`: the file that proves who you are, and the fingerprint that you give to others."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from cloister.errors import ConfigurationError
from cloister.net.certificates import DAYS
from cloister.net.identity import Identity

app: Final = typer.Typer(no_args_is_help=True)

_SOON: Final = 30
"""Days before its end at which a certificate is worth a word."""


class Algorithm(StrEnum):
    """The kinds of keys."""

    ED25519 = "ed25519"
    P256 = "p256"


KeyFile = Annotated[Path, typer.Argument(help="The identity file.", show_default=False)]
Days = Annotated[int, typer.Option(help="How many days the certificate lives.", min=1, max=36_500)]


@app.command()
def new(
    path: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")] = Path("me.key"),
    *,
    days: Days = DAYS,
    algorithm: Annotated[Algorithm, typer.Option(help="The kind of key.")] = Algorithm.ED25519,
) -> None:
    """Make a key and its certificate, in one file that only you may read."""
    if not path.absolute().parent.is_dir():
        raise ConfigurationError(f"there is no folder {path.parent} to put {path.name} in; make it, or name another")
    identity = Identity.create(path, days=days, algorithm=algorithm.value)
    _show(identity)
    typer.echo("\nGive the fingerprint to those you work with. The file stays here: it holds the private key.")


@app.command()
def show(path: KeyFile) -> None:
    """Print the fingerprint of a key, and until when its certificate is valid."""
    _show(Identity.read(path))


@app.command()
def renew(path: KeyFile, *, days: Days = DAYS) -> None:
    """Give a key a new certificate. The fingerprint stays, so nobody has to be told."""
    _show(Identity.renew(path, days=days))


def _show(identity: Identity) -> None:
    left = (identity.not_after - datetime.now(UTC)).days
    note = ""
    if left < 0:
        note = " (expired: `cloister key renew`)"
    elif left < _SOON:
        note = f" (in {left} days: `cloister key renew`)"
    typer.echo(f"file         {identity.path}")
    typer.echo(f"fingerprint  {identity.fingerprint}")
    typer.echo(f"algorithm    {identity.algorithm}")
    typer.echo(f"valid until  {identity.not_after:%Y-%m-%d}{note}")
