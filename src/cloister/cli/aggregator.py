"""``cloister aggregator``: run an aggregator that proves what it is."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from cloister.aggregator.records import COLLATERAL_BYTES
from cloister.attest.attester import find
from cloister.attest.collateral import parse_bundle
from cloister.charter import Charter
from cloister.charter.checking import check_valid, enforceable
from cloister.cli.signals import end_on_signals
from cloister.enclave.memory import give_back_large_vectors
from cloister.enclave.service import Aggregator
from cloister.errors import CharterError
from cloister.net.demands import read_charter
from cloister.net.files import read_text
from cloister.net.proving import Instance
from cloister.node.config import Neighbour, NodeConfiguration, Researcher, session_limits
from cloister.node.service import Node
from cloister.wire.address import Address, parse_address

app: Final = typer.Typer(help="Run an aggregator that proves what it is.", no_args_is_help=True)


class Tee(StrEnum):
    """Who vouches for the aggregator."""

    auto = "auto"
    simulated = "simulated"


@app.callback()
def _aggregator() -> None:
    """Run an aggregator that proves what it is: its software and its charter, to whoever asks."""


@app.command()
def serve(
    charter: Annotated[Path, typer.Option(help="The charter that the members have signed.")],
    tee: Annotated[
        Tee, typer.Option(help="auto: the TEE that this runs in, or nothing. simulated: rehearse; proves nothing.")
    ] = Tee.auto,
    name: Annotated[
        str | None, typer.Option(help="Which of the charter's addresses this is; needed where there are several.")
    ] = None,
    listen: Annotated[
        str | None, typer.Option(help="Where to listen, host:port; by default everywhere, at its address's port.")
    ] = None,
    collateral: Annotated[
        Path | None,
        typer.Option(help="Collateral for this machine, for the ledger: auditors then need no other source."),
    ] = None,
    memory: Annotated[str, typer.Option(help="What a session may hold, where the charter is interactive.")] = "2 GiB",
) -> None:
    """Run the aggregator of a charter until SIGTERM or Ctrl-C. It refuses to start without a TEE."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    agreed = read_charter(charter)
    check_valid(agreed, now=datetime.now(UTC))
    enforceable(agreed)
    address = _choose(agreed, name)
    listening = parse_address(listen or f"0.0.0.0:{parse_address(address).port}")
    attester = find(tee.value, role="aggregator")
    instance = Instance(role="aggregator", attester=attester, charter=agreed.digest, name=address)
    service: Node | Aggregator
    if agreed.interactive:
        service = Node(_configuration(agreed, listen=listening, memory=memory), instance=instance)
    else:
        give_back_large_vectors()
        service = Aggregator(instance, charter=agreed, listen=listening, collateral=_read_collateral(collateral))
    end_on_signals(service.stop)
    service.serve(ready=lambda: typer.echo(f"ready aggregator at {service.address} {service.fingerprint}"))


def _choose(charter: Charter, name: str | None) -> str:
    addresses = charter.addresses
    if name is None and len(addresses) == 1:
        return addresses[0]
    if name is None or name not in addresses:
        listed = ", ".join(addresses)
        raise CharterError(f"say which address of the charter this aggregator has, with --name: {listed}")
    return name


def _read_collateral(file: Path | None) -> bytes | None:
    if file is None:
        return None
    data = read_text(file, limit=COLLATERAL_BYTES).encode()
    parse_bundle(data)  # better now than by an auditor
    return data


def _configuration(charter: Charter, *, listen: Address, memory: str) -> NodeConfiguration:
    """The secure worker of an interactive charter: its researchers open sessions, its owners push values."""
    return NodeConfiguration(
        name="aggregator",
        listen=listen,
        identity=None,
        session=session_limits({"memory": memory}),
        researchers=tuple(Researcher(member.name, member.key) for member in charter.researchers),
        workers=tuple(Neighbour(member.name, member.key, None) for member in charter.owners),
        data_sets=(),
    )
