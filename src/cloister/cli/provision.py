"""``cloister provision``: give a node in a TEE a secret, once it has proved itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloister import files
from cloister.errors import ConfigurationError
from cloister.net.attested import attest_peer
from cloister.net.identity import Identity
from cloister.net.policy import AttestationPolicy, configuration_digest, read_reference
from cloister.tables import TEXT_BYTES
from cloister.wire.limits import SECRET_BYTES


def provision(
    address: Annotated[str, typer.Argument(help="host:port, as the node's configuration has it.", show_default=False)],
    *,
    name: Annotated[str, typer.Option(help="What the node's configuration calls the secret.")],
    secret: Annotated[Path, typer.Option(help="The file that holds it, such as a data set's key.")],
    key: Annotated[Path, typer.Option(help="Your identity file: a secret goes by its name and by who gave it.")],
    charter: Annotated[Path, typer.Option(help="The charter that the node has to run under.")],
    software: Annotated[Path, typer.Option(help="Which software it may be: tables as in a charter, in a file.")],
    configuration: Annotated[Path, typer.Option(help="The node.toml that it has to run with, as you wrote it.")],
    collateral: Annotated[str | None, typer.Option(help="A file, or the URL of a PCCS or KDS.")] = None,
    at: Annotated[str | None, typer.Option(help="Where to dial, if the way there is another.")] = None,
    accept_simulated: Annotated[
        bool, typer.Option("--accept-simulated", help="Let a simulated TEE pass. It proves nothing.")
    ] = False,
) -> None:
    """Give a node in a TEE a secret. Nothing is sent before it has proved its software and its configuration."""
    policy = AttestationPolicy(
        charter=charter,
        role="node",
        reference=read_reference(software),
        configuration=configuration_digest(files.read_text(configuration, limit=TEXT_BYTES), source=str(configuration)),
        accept_simulated=accept_simulated,
        collateral=collateral,
    )
    value = _read(secret)
    with attest_peer(address, policy=policy, identity=Identity.load(key), at=at) as attested:
        typer.echo(attested.verdict.line())
        attested.provision(name, value)
    typer.echo(f"{address} keeps {name!r}, in its memory, until it ends")


def _read(file: Path) -> bytes:
    try:
        value = files.read(file, limit=SECRET_BYTES)
    except OSError as fault:
        raise ConfigurationError(
            f"{file} cannot be read: {fault.strerror}; a secret is a file of 1 to {SECRET_BYTES} bytes"
        ) from None
    if not value:
        raise ConfigurationError(f"{file} must hold 1 to {SECRET_BYTES} bytes to be a secret; name another file")
    return value
