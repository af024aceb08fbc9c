"""``cloister aggregator``: run an aggregator that proves what it is."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cloister.charter import Charter
from cloister.enclave.setup import aggregator_of, check_signatures, instance_of, where
from cloister.net.files import read_charter
from cloister.net.log_lines import start_log
from cloister.net.signals import end_on_signals
from cloister.net.signatures import signatures_beside
from cloister.wire.peers import Address

if TYPE_CHECKING:
    from cloister.enclave.server import Aggregator
    from cloister.node.config import NodeConfiguration
    from cloister.node.server import Node

app: Final = typer.Typer(help="Run an aggregator that proves what it is.", no_args_is_help=True)


class Tee(StrEnum):
    """Where the aggregator's evidence comes from."""

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
    signatures: Annotated[
        Path | None,
        typer.Option(help="The folder of the owners' signatures; by default charter.sigs beside charter.toml."),
    ] = None,
    memory: Annotated[str, typer.Option(help="What a session may hold, where the charter is interactive.")] = "2 GiB",
) -> None:
    """Run the aggregator of a charter until SIGTERM or Ctrl-C. It refuses to start without a TEE.

    It also refuses where all members would: under a charter that lacks an owner's signature, or does not list it.

    `python -m cloister.enclave` does the same for a closed charter without this command line: less to review in a TEE.
    """
    start_log()
    agreed = read_charter(charter)
    instance = instance_of(agreed, tee=tee.value, name=name)
    check_signatures(agreed, folder=signatures or signatures_beside(charter))
    service: Node | Aggregator
    if agreed.interactive:
        from cloister.node.server import Node  # a closed charter's aggregator holds nothing of it

        service = Node(_configuration(agreed, listen=where(instance, listen), memory=memory), instance=instance)
    else:
        service = aggregator_of(agreed, instance=instance, listen=listen, collateral=collateral)
    end_on_signals(service.stop)
    service.serve(ready=lambda: typer.echo(f"ready aggregator at {service.address} {service.fingerprint}"))


def _configuration(charter: Charter, *, listen: Address, memory: str) -> NodeConfiguration:
    """The secure worker of an interactive charter: its researchers open sessions, its owners push values."""
    from cloister.node.config import Neighbour, NodeConfiguration, Researcher, session_limits

    return NodeConfiguration(
        name="aggregator",
        listen=listen,
        identity=None,
        session=session_limits({"memory": memory}),
        researchers=tuple(Researcher(member.name, member.key) for member in charter.researchers),
        workers=tuple(Neighbour(member.name, member.key, None) for member in charter.owners),
        data_sets=(),
    )
