"""``cloister node``: run a node beside the data."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer

from cloister.errors import CloisterError, ConfigurationError
from cloister.node import config
from cloister.node.config import NodeConfiguration
from cloister.node.service import Node, check

app: Final = typer.Typer(help="Run a node beside the data.", no_args_is_help=True)
ConfigurationFile = Annotated[Path, typer.Argument(metavar="NODE.TOML", help="The node's configuration.")]


@app.callback()
def _node() -> None:
    """Run a node beside the data: `new` writes its configuration, `check` looks it over, `serve` runs it."""


@app.command()
def new(path: Annotated[Path, typer.Argument(metavar="[PATH]", help="The file to write.")] = Path("node.toml")) -> None:
    """Write a node.toml to start from, with a comment on every key."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE)
    except FileExistsError:
        raise _stop(f"{path} exists and is not overwritten; name another file") from None
    except OSError as fault:
        raise _stop(f"{path} cannot be written: {fault.strerror}") from None
    typer.echo(
        f"wrote {path}. Next: cloister key new {path.parent / 'node.key'}, edit {path}, cloister node check {path}"
    )


@app.command(name="check")
def check_(file: ConfigurationFile) -> None:
    """Look over a node.toml and the files that it names, and list every fault."""
    try:
        configuration = config.read(file)
        identity, _ = check(configuration)
    except ConfigurationError as fault:
        raise _stop(str(fault)) from None
    for line in _overview(configuration, identity.fingerprint):
        typer.echo(line)
    typer.echo(f"{file} is in order")


@app.command()
def serve(file: ConfigurationFile) -> None:
    """Run the node until SIGTERM or Ctrl-C: it then finishes what it is at and ends. A second one ends it at once."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        node = Node(config.read(file))
        _end_on_signals(node)
        node.serve(ready=lambda: typer.echo(f"ready {node.name} at {node.address} {node.identity.fingerprint}"))
    except CloisterError as fault:
        raise _stop(str(fault)) from None


def _end_on_signals(node: Node) -> None:
    asked: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        if asked:
            os._exit(128 + number)  # its executors are killed by the system as it ends
        asked.append(number)
        node.stop()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


def _stop(text: str) -> typer.Exit:
    typer.echo(text, err=True)
    return typer.Exit(2)


def _overview(configuration: NodeConfiguration, fingerprint: str) -> Iterator[str]:
    yield f"node        {configuration.name} at {configuration.listen}"
    yield f"key         {fingerprint}"
    for researcher in configuration.researchers:
        yield f"researcher  {researcher.name}, {researcher.fingerprint}"
    for worker in configuration.workers:
        yield f"worker      {worker.name} at {worker.address or 'no address'}, {worker.fingerprint}"
    for data_set in configuration.data_sets:
        state = "OPEN to interactive use (unsafe)" if data_set.unsafe_interactive else "closed to interactive use"
        yield f"data set    {' '.join(data_set.tags)}: {data_set.tensor} in {data_set.path}, {state}"


TEMPLATE: Final = """\
# A cloister node. Reference: docs/operations.md. Look it over with: cloister node check node.toml

name = "bob"                  # what callers see
listen = "0.0.0.0:7443"       # host:port; an IPv6 host in brackets; port 0 takes a free one
identity = "node.key"         # made by: cloister key new node.key; paths start from this file's folder

[session]                     # what each session may have; these are the defaults
memory = "2 GiB"              # tensors that it holds
objects = 100_000             # how many of them
max_sessions = 8              # at a time; one more is told "busy"
spare_executors = 1           # processes that wait, warmed up, for the next session
grace = "10 s"                # to finish what is under way when a caller vanishes or the node closes
move_wait = "10 min"          # how long values wait for the session that they are moved to
device = "cpu"                # or "cuda", "cuda:1"
# threads = 1                 # CPU threads of each session; default: the cores divided by max_sessions

# Who may open sessions. `cloister key show me.key` prints a fingerprint; have it told to you by its owner.
# [[researchers]]
# name = "carol"
# fingerprint = "sha256:..."

# Other nodes: their values may be moved here, and, where there is an address, values from here to them.
# [[workers]]
# name = "secure_worker"
# fingerprint = "sha256:..."
# address = "agg.example:7443"

# What this node holds. A data set is closed to interactive use unless its owner opens it.
# [[data_sets]]
# tags = ["#mri", "#x"]
# file = "mri.npz"            # or .safetensors
# tensor = "x"                # the array in it
# unsafe_interactive = true   # a researcher whom you trust as yourself may see every row
"""
