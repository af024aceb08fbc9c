"""``cloister node``: run a node beside the data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from cloister.charter import Charter
from cloister.charter.names import shown
from cloister.cli.charter import STUDY
from cloister.cli.node_log import as_text, show, told_of
from cloister.errors import CloisterError, ConfigurationError
from cloister.net.identity import Identity
from cloister.net.log_lines import start_log
from cloister.net.signals import end_on_signals
from cloister.node import config, control
from cloister.node.config import MIB, NodeConfiguration, StudyData
from cloister.node.confinement import means
from cloister.node.outlook import outlook
from cloister.node.running import Account
from cloister.node.server import check
from cloister.node.setup import agreed, node_of, note_successor
from cloister.node.study.base_files import BaseFiles
from cloister.node.study.budgets import budgets, lines
from cloister.node.study.journal import FILE as RECORDS
from cloister.node.study.journal import Records
from cloister.node.tags import trains_under
from cloister.node.trainable import columns_of, misfits
from cloister.wire.tensors import TensorSpec
from cloister.wire.text import visible
from cloister.worker.data.schema import Column

app: Final = typer.Typer(help="Run a node beside the data.", no_args_is_help=True)
ConfigurationFile = Annotated[Path, typer.Argument(metavar="NODE.TOML", help="The node's configuration.")]


@app.callback()
def _node() -> None:
    """Run a node beside the data: `new` writes its configuration, `check` looks it over, `serve` runs it,
    `sessions` shows and ends sessions, `log` shows its part in studies, `note` has it see a charter's successor."""


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
def check_(
    file: ConfigurationFile,
    *,
    study: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.STUDY",
            help="A charter's study file: its plans say what they take of each column.",
            show_default="beside the charter",
        ),
    ] = None,
) -> None:
    """Look over a node.toml and the files that it names, and list every fault. Parquet and models are read through."""
    try:
        configuration = config.read(file)
        columns = cache(partial(columns_of, memory_bytes=configuration.training.memory_bytes))
        identity, _ = check(configuration, look=columns)
        charters = agreed(configuration, remember=False)
        own = None if identity is None else identity.fingerprint
        models = BaseFiles(configuration.models)
        found = outlook(configuration, charters, own=own, models=models)
        plans = _plans(configuration, charters, study)
        digests = models.digests()
    except CloisterError as fault:
        raise _stop(str(fault)) from None
    faults = list(found.faults)
    for charter in charters:
        if trains_under(charter, own):
            faults += misfits(charter, configuration.study_data, plans=plans, columns=columns)
    for line in [*_overview(configuration, identity, charters, columns), *_models(digests, charters)]:
        typer.echo(visible(line))
    for name, budget in found.left:
        typer.echo(visible(f"rounds      {budget.left} of {budget.most} left for {budget.data} under {name}"))
    for each in faults:
        typer.echo(visible(f"warning     {each}"))
    typer.echo(f"{file} is in order" + (", but for the warnings above" if faults else ""))


def _plans(
    configuration: NodeConfiguration, charters: Sequence[Charter], study: Path | None
) -> dict[bytes, list[Column]]:
    """The columns that the plans of the charters' jobs take, by their digests, as far as study files are there.

    Raises:
        ConfigurationError: the study file that is named cannot be read, or is of another charter.
    """
    beside = [use.file.with_suffix(STUDY) for use in configuration.charters if use.file.name]
    digests = {charter.digest for charter in charters}
    found: dict[bytes, list[Column]] = {}
    for file in [each for each in beside if each.is_file()] if study is None else [study]:
        from cloister.cli.study import read_study  # its NumPy is for those who look into models

        read = read_study(file)
        if read.charter.digest in digests:
            for plan in read.plans:
                batch = read.program(plan).batch
                found[plan] = [Column(each.name, TensorSpec(each.dtype, each.row)) for each in batch]
        elif study is not None:  # one that only lies there may be of another version, which nobody has signed
            raise ConfigurationError(
                f"{file} is of another charter than those of {configuration.name}: name one of theirs"
            )
    return found


@app.command()
def serve(file: ConfigurationFile) -> None:
    """Run the node until SIGTERM or Ctrl-C: it then finishes what it is at and ends. A second one ends it at once."""
    start_log()
    try:
        node = node_of(file)
        end_on_signals(node.stop)
        node.serve(ready=lambda: typer.echo(f"ready {node.name} at {node.address or '-'} {node.fingerprint}"))
    except CloisterError as fault:
        raise _stop(str(fault)) from None


@app.command()
def note(
    file: ConfigurationFile,
    charter: Annotated[Path, typer.Argument(metavar="CHARTER.TOML", help="The successor.", show_default=False)],
) -> None:
    """Note that this node has seen a successor, which it may have to wait for: an owner's key is said to be lost.

    The node may be running meanwhile, and works on under the charter that it has.
    """
    try:
        found = note_successor(config.read(file), charter, now=datetime.now(UTC))
    except CloisterError as fault:
        raise _stop(str(fault)) from None
    typer.echo(
        f"{shown(found.name)} #{found.serial}, {found.digest.hex()}, may be followed: name {charter} in {file}, and"
        " start the node again"
    )


@app.command()
def log(
    file: ConfigurationFile, as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False
) -> None:
    """Show what the node did in studies: each round, and what is left of each data set's budgets.

    The node may be running meanwhile.
    """
    try:
        configuration = config.read(file)
        charters, uses = agreed(configuration, remember=False), configuration.charters
        if not uses:
            raise ConfigurationError(
                f"{file} names no charter, and without one a node takes part in no study; name one with [charter]"
            )
        state = uses[0].state
        if state is None or not (state / RECORDS).exists():
            raise ConfigurationError(f"{file}: there are no records yet; this node has taken part in no study")
        with closing(Records(state, read_only=True)) as records:
            rounds = lines(records)
            names = [data.name for data in configuration.study_data]
            floors = [use.floors for use in uses]
            left = budgets(records, names=names, charters=zip(charters, floors, strict=True))
            given = {data.name: data.budget for data in configuration.study_data}
            found = told_of(records, given, charters)
    except CloisterError as fault:
        raise _stop(str(fault)) from None
    if as_json:
        typer.echo(as_text(rounds, left, found))
    else:
        show(rounds, left, found)


@app.command()
def sessions(
    file: ConfigurationFile,
    end: Annotated[int | None, typer.Option(metavar="ID", help="End the session of this number.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Show the sessions that run on a node, or end one. The node has to be running, on this machine."""
    try:
        path = config.read(file).control
        if path is None:
            raise ConfigurationError("a node in a TEE is not controlled from outside")
        if end is not None:
            control.end(path, end)
            typer.echo(f"session {end} is ended")
            return
        running = control.sessions(path)
    except CloisterError as fault:
        raise _stop(str(fault)) from None
    if as_json:
        typer.echo(json.dumps([each._asdict() for each in running], indent=2))
    else:
        _print_sessions(running)


def _print_sessions(running: Sequence[Account]) -> None:
    if not running:
        typer.echo("no session runs")
        return
    table = Table(box=None)
    for heading in ("id", "researcher", "key", "since (UTC)", "tensors", "MiB", "CPU s", "idle s", "last"):
        table.add_column(heading, overflow="fold")
    for each in running:
        numbers = (f"{each.objects}", f"{each.nbytes / MIB:.1f}", f"{each.cpu_s:.1f}", f"{each.idle_s:.0f}")
        key = each.fingerprint[: len("sha256:") + 12]
        table.add_row(
            str(each.number),
            visible(each.researcher),
            key,
            each.since.removesuffix("+00:00"),
            *numbers,
            visible(each.last or "-"),
        )
    Console().print(table, markup=False)


def _stop(text: str) -> typer.Exit:
    typer.echo("\n".join(map(visible, text.split("\n"))), err=True)
    return typer.Exit(2)


def _overview(
    configuration: NodeConfiguration,
    identity: Identity | None,
    charters: Sequence[Charter],
    columns: Callable[[StudyData], tuple[Column, ...]],
) -> Iterator[str]:
    yield f"node        {configuration.name} at {configuration.listen or 'no address: it dials out'}"
    yield f"key         {'made at each start, in the TEE' if identity is None else identity.fingerprint}"
    yield f"executors   confined by {means()}"
    for charter in charters:
        yield f"charter     {shown(charter.name)} #{charter.serial}, {charter.digest.hex()}"
    for researcher in configuration.researchers:
        yield f"researcher  {researcher.name}, {researcher.fingerprint}"
    for worker in configuration.workers:
        yield f"worker      {worker.name} at {worker.address or 'no address'}, {worker.fingerprint}"
    for data_set in configuration.data_sets:
        state = "OPEN to interactive use (unsafe)" if data_set.unsafe_interactive else "closed to interactive use"
        yield f"data set    {' '.join(data_set.tags)}: {data_set.tensor} in {data_set.path}, {state}"
    for data in configuration.study_data:
        named = ", ".join(f"{column.name} {column.row}" for column in columns(data))
        yield f"data set    {' '.join(data.tags)}: {named} in {data.path}, for studies; no session finds it"


def _models(models: Mapping[Path, bytes], charters: Sequence[Charter]) -> Iterator[str]:
    """The files of base models, with what charters know them as."""
    for path, digest in models.items():
        named = [
            f"base {shown(base.name)} of {shown(each.name)}"
            for each in charters
            for base in each.bases
            if digest in base.files
        ]
        yield f"model       {' and '.join(named) or 'of no base in a charter here'}: {path}, SHA-256 {digest.hex()}"


TEMPLATE: Final = """\
# A cloister node. Reference: docs/operations.md. Look it over with: cloister node check node.toml

name = "bob"                  # what callers see
listen = "0.0.0.0:7443"       # host:port; an IPv6 host in brackets; port 0 takes a free one. A node that only takes
                              # part in studies dials out and needs none: leave it out
identity = "node.key"         # made by: cloister key new node.key; paths start from this file's folder
# state = "charter.state"     # the node's memory, of all charters and data sets
# control = "node.sock"       # where `cloister node sessions` speaks to this node; default: beside the identity

[session]                     # what each session may have; these are the defaults
memory = "2 GiB"              # tensors that it holds
objects = 100_000             # how many of them
max_sessions = 8              # at a time; one more is told "busy"
spare_executors = 1           # processes that wait, warmed up, for the next session
grace = "10 s"                # to finish what is under way when a caller vanishes or the node closes
move_wait = "10 min"          # how long values wait for the session that they are moved to
idle = "8 h"                  # how long a session lasts of which nothing is asked
sessions_per_researcher = 4   # at a time; default: half of max_sessions
device = "cpu"                # or "cuda", "cuda:1"
# threads = 1                 # CPU threads of each session; default: the cores divided by max_sessions
# call_cpu = "10 min"         # CPU time of one operation or training step; default: 10 min for each thread
# session_cpu = "24 h"        # CPU time of a session in all; default: 24 h for each thread

# [training]                  # in studies; these are the defaults
# memory = "4 GiB"            # for the plan, the model and what is read of the data
# device = "cpu"              # or "cuda", "cuda:1"
# threads = 8                 # CPU threads; default: all cores
# step_cpu = "80 min"         # CPU time of one step; default: 10 min for each thread
# round_cpu = "192 h"         # CPU time of a round; default: 24 h for each thread

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

# What studies train on: columns of an .npz, .npy, .safetensors or .parquet file. No session ever finds it.
# [[data_sets]]
# tags = ["#stroke"]
# file = "stroke.parquet"
# columns = ["age", "pressure", "outcome"]   # in the order in which the plan takes them

# The files of base models, which charters name by their digests; studies train adapters on them.
# [[models]]
# file = "gpt2/model.safetensors"   # a table for each file

# On somebody else's machine, a data set can be sealed: `cloister data seal` makes such a file.
# [[data_sets]]
# tags = ["#ct", "#x"]
# file = "ct.npz.sealed"
# tensor = "x"
# key = "ct"                  # the name of the secret that opens it
# key_from = "sha256:..."     # who provisions it, once this node has proved itself

# The charter that this node works under; [[charters]] names several. Each has to be signed by this node's key and by
# all owners in it.
# [charter]
# file = "charter.toml"       # signatures lie in charter.sigs beside it
# collateral = "https://pccs.example:8081"   # what TEEs are judged by: a file, or a service's URL
# accept_simulated = true     # for rehearsals: a simulated TEE will do, which proves nothing
# publish_budget = true       # the charter's members are told how many rounds a data set has left
# [charter.floors]            # this owner's own limits; they can only be stricter
# min_examples = 100
# max_s = 3600                # the longest training for one round, in seconds

# For a node inside a TEE on somebody else's machine; it has no identity then, and proves what it is.
# [tee]
# kind = "auto"               # or "simulated"
# address = "cloud.example:7443"   # as those who connect dial it
"""
