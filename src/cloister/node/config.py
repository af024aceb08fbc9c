"""node.toml: what one node is, whom it knows, what it holds and how much it gives. docs/operations.md is its reference.

Every fault in the file is reported, all at once and each with its place, so that an owner corrects it in one go.
Nothing that is written is ignored: a key that means nothing here is a fault too, since a mistyped limit is no limit.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from cloister import files
from cloister.attest.reference import MAX_AGE
from cloister.charter.charter import COUNT, DELTA
from cloister.charter.owner_limits import Floors, PrivacyBudget
from cloister.errors import ConfigurationError
from cloister.net.secrets import SecretName
from cloister.net.signatures import signatures_beside
from cloister.node.node_table import NodeTable
from cloister.tables import TEXT_BYTES, faulty, load
from cloister.wire.peers import Address, parse_address
from cloister.worker.data.salts import SALT_BYTES

MIB: Final = 1 << 20
SEALED: Final = ".sealed"
"""Ends the name of a sealed file, after the ending that says what is in it."""
CALL_CPU_S: Final = 600.0
ALL_CPU_S: Final = 24 * 3600.0
"""For each thread, unless node.toml says something else: what one call, and a session or a round in all, may take."""
_MOST_CPU_S: Final = 10 * 366 * 24 * 3600.0
_STUDIED: Final = (".npz", ".npy", ".safetensors", ".parquet")
_TABLES_OF_TEXT: Final = (".csv", ".tsv")
_TO_PARQUET: Final = (
    '; write it as Parquet, with types that you choose: pandas.read_csv("{1}").to_parquet("{0}.parquet")'
)


@dataclass(frozen=True)
class SessionLimits:
    """What each session may have. Sizes in bytes, times in seconds."""

    memory_bytes: int
    objects: int
    max_sessions: int
    spare_executors: int
    grace_s: float
    move_wait_s: float
    device: str
    threads: int
    call_cpu_s: float
    session_cpu_s: float
    idle_s: float
    sessions_per_researcher: int


@dataclass(frozen=True)
class TrainingLimits:
    """What training in studies may have. Times in seconds of CPU time."""

    memory_bytes: int = 4 << 30
    device: str = "cpu"
    threads: int = os.cpu_count() or 1
    step_cpu_s: float = CALL_CPU_S * (os.cpu_count() or 1)
    round_cpu_s: float = ALL_CPU_S * (os.cpu_count() or 1)


@dataclass(frozen=True)
class Researcher:
    """A key that may open sessions."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class Neighbour:
    """Another node: it may push values here, and, where its address is known, values are pushed to it."""

    name: str
    fingerprint: str
    address: Address | None


@dataclass(frozen=True)
class DataSet:
    """One registered tensor: where it lies and what a search finds it by."""

    tags: tuple[str, ...]
    path: Path
    tensor: str
    unsafe_interactive: bool
    key: SecretName | None = None
    """Of a sealed file: the secret that opens it, and who provisions it."""
    index: int = field(default=0, compare=False)
    """Where it stands in the file's list."""


@dataclass(frozen=True)
class StudyData:
    """Columns that studies train on. No session ever finds them."""

    tags: tuple[str, ...]
    path: Path
    columns: tuple[str, ...]
    unsafe_unmarked: bool = False
    """Whether no mark lies beside the file, so that a second node would not notice what was released of it."""
    unsafe_counted_otherwise: bool = False
    """Whether jobs may have another batch size than those before: two means can then differ by one owner."""
    budget: PrivacyBudget | None = None
    """What its rounds may cost each of its records; None: only their number is limited."""
    index: int = field(default=0, compare=False)
    """Where it stands in the file's list."""

    @property
    def name(self) -> str:
        """What it is called in the node's records, where its budget is counted."""
        return " ".join(sorted(self.tags))


@dataclass(frozen=True)
class BaseFile:
    """A safetensors file of a base model, which charters name by its digest."""

    path: Path


@dataclass(frozen=True)
class CharterUse:
    """The charter that a node works under, and what its owner adds to it. ``cloister.node.setup`` loads it."""

    file: Path
    signatures: Path
    """The folder of the members' signatures, ``*.sig``."""
    state: Path | None
    """The folder that remembers which charters were accepted; None remembers nothing, for rehearsals in one process."""
    accept_simulated: bool
    """Whether a simulated TEE will do, which proves nothing. The charter has to name it too."""
    collateral: str | None
    """A file, or the URL of a service, that tells what TEEs are judged by."""
    floors: Floors | None
    routes: Mapping[str, str] = field(default_factory=dict)
    """For an aggregator's address in the charter, where to dial instead: a tunnel, for instance."""
    publish_budget: bool = False
    """Whether the charter's members are told how many rounds a data set has left."""
    unsafe_salt: bytes | None = None
    """What chooses and orders rows in a rehearsal, in place of a secret of each data set; 32 bytes."""


@dataclass(frozen=True)
class TeeUse:
    """That a node runs in a TEE, on somebody else's machine, and proves what it is."""

    kind: Literal["auto", "simulated"]
    address: str
    """What those who dial it call it; evidence names it."""


@dataclass(frozen=True)
class NodeConfiguration:
    """A node.toml without faults. Paths are absolute."""

    name: str
    listen: Address | None
    """None where nobody is served: a node that takes part in studies dials out."""
    identity: Path | None
    """None in a TEE, where the key is made anew at each start."""
    session: SessionLimits
    researchers: tuple[Researcher, ...]
    workers: tuple[Neighbour, ...]
    data_sets: tuple[DataSet, ...]
    study_data: tuple[StudyData, ...] = ()
    models: tuple[BaseFile, ...] = ()
    charters: tuple[CharterUse, ...] = ()
    """The charters that it works under, side by side; one memory serves them all."""
    tee: TeeUse | None = None
    training: TrainingLimits = TrainingLimits()
    control: Path | None = None
    """The Unix socket at which the node's owner speaks to it; None in a TEE, whose machine is somebody else's."""


def read(path: str | os.PathLike[str]) -> NodeConfiguration:
    """The configuration in a file. The files that it names are not looked at.

    Raises:
        ConfigurationError: the file cannot be read or has faults; the message lists all of them.
    """
    return parse(read_text(path), folder=Path(path).absolute().parent, source=str(path))


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a configuration file.

    Raises:
        ConfigurationError: it cannot be read; the message says how to make one.
    """
    return files.read_text(path, limit=TEXT_BYTES, hint=f"write one with: cloister node new {path}")


def parse(text: str, *, folder: Path, source: str = "node.toml") -> NodeConfiguration:
    """The configuration in a text; ``folder`` is where relative paths start, ``source`` the name for messages.

    Raises:
        ConfigurationError: the text has faults; the message lists all of them.
    """
    faults: list[str] = []
    table = NodeTable(load(text, source=source), faults=faults)
    data_sets = [
        (_study_data if entry.holds("columns") else _data_set)(entry, folder, index)
        for index, entry in enumerate(table.tables("data_sets"))
    ]
    charters = _charters(table, folder)
    configuration = NodeConfiguration(
        name=table.name("name"),
        listen=table.listening("listen") if table.holds("listen") or not charters else None,
        identity=_identity(table, folder),
        session=_session(table.table("session")),
        training=_training(table.table("training")),
        researchers=tuple(
            Researcher(name=entry.name("name"), fingerprint=entry.fingerprint())
            for entry in table.tables("researchers")
        ),
        workers=tuple(
            Neighbour(name=entry.name("name"), fingerprint=entry.fingerprint(), address=entry.dialled("address"))
            for entry in table.tables("workers")
        ),
        data_sets=tuple(each for each in data_sets if isinstance(each, DataSet)),
        study_data=tuple(each for each in data_sets if isinstance(each, StudyData)),
        models=tuple(_base_file(entry, folder) for entry in table.tables("models")),
        charters=charters,
        tee=_tee(table.table("tee")) if table.holds("tee") else None,
        control=_control(table, folder),
    )
    table.finish()
    _check_peers(configuration, faults)
    _check_study_data(configuration, faults)
    if configuration.listen is None and (configuration.researchers or configuration.workers or configuration.data_sets):
        faults.append("listen: is missing; researchers, workers and data sets for sessions are served at an address")
    if faults:
        raise faulty(source, list(dict.fromkeys(faults)))  # the identity is read for its own name and the socket's
    return configuration


def session_limits(settings: Mapping[str, object]) -> SessionLimits:
    """What a session may have, by the keys of a ``[session]`` table; those that are left out have their defaults.

    Raises:
        ConfigurationError: a key or value that makes no sense.
    """
    faults: list[str] = []
    table = NodeTable(settings, faults=faults)
    limits = _session(table)
    table.finish()
    if faults:
        raise faulty("the session's limits", faults)
    return limits


def _session(table: NodeTable) -> SessionLimits:
    max_sessions = table.whole("max_sessions", default=8, least=1, most=256)
    # Sessions compute at the same time: more threads than cores would only make them wait for each other.
    threads = table.whole("threads", default=max(1, (os.cpu_count() or 1) // max_sessions), least=1, most=1024)
    return SessionLimits(
        memory_bytes=table.size("memory", default="2 GiB", least=MIB),
        objects=table.whole("objects", default=100_000, least=1, most=100_000_000),
        max_sessions=max_sessions,
        spare_executors=table.whole("spare_executors", default=1, least=0, most=64),
        grace_s=table.duration("grace", default="10 s", most_s=3600),
        move_wait_s=table.duration("move_wait", default="10 min", most_s=24 * 3600),
        device=table.device("device"),
        threads=threads,
        call_cpu_s=_cpu(table, "call_cpu", default_s=CALL_CPU_S * threads),
        session_cpu_s=_cpu(table, "session_cpu", default_s=ALL_CPU_S * threads),
        idle_s=table.some_time("idle", default_s=8 * 3600.0, most_s=366 * 24 * 3600.0),
        # One researcher, whatever its scripts do, leaves half of the node to the others.
        sessions_per_researcher=table.whole(
            "sessions_per_researcher", default=(max_sessions + 1) // 2, least=1, most=256
        ),
    )


def _cpu(table: NodeTable, key: str, *, default_s: float) -> float:
    return table.some_time(key, default_s=default_s, most_s=_MOST_CPU_S)


def _training(table: NodeTable) -> TrainingLimits:
    threads = table.whole("threads", default=os.cpu_count() or 1, least=1, most=1024)
    return TrainingLimits(
        memory_bytes=table.size("memory", default="4 GiB", least=MIB),
        device=table.device("device"),
        threads=threads,
        step_cpu_s=_cpu(table, "step_cpu", default_s=CALL_CPU_S * threads),
        round_cpu_s=_cpu(table, "round_cpu", default_s=ALL_CPU_S * threads),
    )


def _study_data(entry: NodeTable, folder: Path, index: int) -> StudyData:
    path = folder / entry.text("file")
    if path != folder and path.suffix not in _STUDIED:
        hint = _TO_PARQUET.format(path.stem, path.name) if path.suffix in _TABLES_OF_TEXT else ""
        entry.fault("file", f"a data set for studies is a file of one of these kinds: {', '.join(_STUDIED)}{hint}")
    for key in ("tensor", "unsafe_interactive", "key", "key_from"):
        if entry.holds(key):
            entry.fault(key, "a data set with columns is for studies, and no session ever finds it; leave this out")
    return StudyData(
        tags=entry.tags(),
        path=path,
        columns=entry.columns(),
        unsafe_unmarked=entry.flag("unsafe_unmarked", default=False),
        unsafe_counted_otherwise=entry.flag("unsafe_counted_otherwise", default=False),
        budget=_privacy_budget(entry),
        index=index,
    )


def _base_file(entry: NodeTable, folder: Path) -> BaseFile:
    path = folder / entry.text("file")
    if path != folder and path.suffix != ".safetensors":
        entry.fault("file", "a base model is made of .safetensors files, one table for each")
    return BaseFile(path)


def _privacy_budget(entry: NodeTable) -> PrivacyBudget | None:
    """``epsilon`` and ``delta``: one means nothing without the other."""
    if not entry.holds("epsilon") and not entry.holds("delta"):
        return None
    epsilon, delta = entry.number("epsilon", above=0.0), entry.number("delta", above=0.0, most=DELTA)
    return None if epsilon is None or delta is None else PrivacyBudget(epsilon, delta)


def _check_study_data(configuration: NodeConfiguration, faults: list[str]) -> None:
    """One name has one file, and one file one name: what was released of a data set is counted by its name."""
    for index, data in enumerate(configuration.study_data):
        for other in configuration.study_data[:index]:
            if data.name and data.name == other.name:
                faults.append(f"data_sets[{data.index}].tags: data_sets[{other.index}] carries the same")
            if data.path != data.path.parent and files.same_file(data.path, other.path):
                faults.append(f"data_sets[{data.index}].file: data_sets[{other.index}] is the same file")
        for opened in configuration.data_sets:
            if opened.unsafe_interactive and files.same_file(opened.path, data.path):
                faults.append(
                    f"data_sets[{opened.index}].unsafe_interactive: data_sets[{data.index}] keeps this file for studies"
                )
    if configuration.study_data and configuration.tee is not None:
        faults.append("data_sets: a charter names its members' keys, and a node in a TEE has a new one at each start")


def _data_set(entry: NodeTable, folder: Path, index: int) -> DataSet:
    path = folder / entry.text("file")
    sealed = path.suffix == SEALED
    wrong = path != folder and (Path(path.stem).suffix if sealed else path.suffix) not in (".npz", ".safetensors")
    if wrong:
        entry.fault(
            "file",
            "a data set for sessions is an .npz or a .safetensors file; one for studies names its columns, in place of"
            " a tensor",
        )
    keyed = entry.holds("key") | entry.holds("key_from")
    if path.suffix and keyed != sealed:
        entry.fault("file", f"a file that is sealed ends in {SEALED} and has a key and a key_from, and no other has")
    return DataSet(
        tags=entry.tags(),
        path=path,
        tensor="" if wrong and not entry.holds("tensor") else entry.text("tensor"),
        unsafe_interactive=entry.flag("unsafe_interactive", default=False),
        key=SecretName(entry.name("key"), entry.fingerprint("key_from")) if keyed else None,
        index=index,
    )


def _identity(table: NodeTable, folder: Path) -> Path | None:
    if not table.holds("tee"):
        return folder / table.text("identity")
    if table.holds("identity"):
        table.text("identity")
        table.fault("identity", "a node in a TEE keeps no key in a file: it makes one when it starts; leave this out")
    return None


def _control(table: NodeTable, folder: Path) -> Path | None:
    """Beside the identity, unless it is named: ``node.sock`` for node.key."""
    if table.holds("tee"):
        if table.holds("control"):
            table.fault("control", "a node in a TEE is controlled by nobody on its machine; leave this out")
        return None
    return folder / table.text("control", default=str(Path(table.text("identity") or "node").with_suffix(".sock")))


def _tee(table: NodeTable) -> TeeUse:
    kind: Literal["auto", "simulated"] = (
        "simulated" if table.choice("kind", among=("auto", "simulated")) == "simulated" else "auto"
    )
    return TeeUse(kind=kind, address=str(table.dialled("address") or table.text("address")))


def _charters(table: NodeTable, folder: Path) -> tuple[CharterUse, ...]:
    """Those of ``[charter]``, or of each ``[[charters]]``. What is remembered is the node's, and not any charter's."""
    state = folder / table.text("state", default="charter.state")
    one = [table.table("charter")] if table.holds("charter") else []
    if one and table.holds("charters"):
        table.fault("charters", "name one charter as [charter], or all of them as [[charters]]")
    found = tuple(_charter(entry, folder, state) for entry in [*one, *table.tables("charters")])
    paths = [use.file for use in found]
    if any(files.same_file(path, other) for at, path in enumerate(paths) for other in paths[:at]):
        table.fault("charters", "names one file twice")
    return found


def _charter(table: NodeTable, folder: Path, state: Path) -> CharterUse:
    file = folder / table.text("file")
    if table.holds("state"):
        table.fault("state", "stands at the top of node.toml now, above all tables: move the line there")
    collateral = table.text("collateral") if table.holds("collateral") else None
    if collateral is not None and "://" not in collateral:
        collateral = str(folder / collateral)
    return CharterUse(
        file=file,
        signatures=folder / table.text("signatures", default=str(signatures_beside(file))),
        state=state,
        accept_simulated=table.flag("accept_simulated", default=False),
        collateral=collateral,
        floors=_floors(table.table("floors")) if table.holds("floors") else None,
        routes=_routes(table),
        publish_budget=table.flag("publish_budget", default=False),
        unsafe_salt=table.hexadecimal("unsafe_salt", size=SALT_BYTES) if table.holds("unsafe_salt") else None,
    )


def _routes(table: NodeTable) -> dict[str, str]:
    routes = table.take("routes", dict, "a table of addresses", {}) or {}
    for name, route in routes.items():
        try:
            parse_address(name)
            parse_address(route if isinstance(route, str) else "")
        except ConfigurationError as fault:
            table.fault("routes", str(fault))
    return dict(routes)


def _floors(table: NodeTable) -> Floors:
    def whole(key: str, *, least: int) -> int | None:
        return table.whole(key, least=least, most=COUNT) if table.holds(key) else None

    return Floors(
        floor=whole("floor", least=2),
        largest_share=table.number("largest_share", above=0.0, most=1.0) if table.holds("largest_share") else None,
        clip=table.number("clip", above=0.0) if table.holds("clip") else None,
        rounds=whole("rounds", least=0),
        min_examples=whole("min_examples", least=1),
        min_batch=whole("min_batch", least=1),
        max_s=whole("max_s", least=1),
        max_collateral_age=table.age("max_collateral_age", most=MAX_AGE) if table.holds("max_collateral_age") else None,
    )


def _check_peers(configuration: NodeConfiguration, faults: list[str]) -> None:
    """One key has one name, one name has one key, and no list names a key twice."""
    names: dict[str, str] = {}
    keys: dict[str, str] = {}
    lists: tuple[tuple[str, tuple[Researcher | Neighbour, ...]], ...] = (
        ("researchers", configuration.researchers),
        ("workers", configuration.workers),
    )
    for where, peers in lists:
        seen: set[str] = set()
        for index, peer in enumerate(peers):
            if not peer.name or not peer.fingerprint:
                continue  # reported already
            place = f"{where}[{index}]"
            if peer.fingerprint in seen:
                faults.append(f"{place}.fingerprint: this key is listed twice")
            elif names.setdefault(peer.fingerprint, peer.name) != peer.name:
                faults.append(f"{place}.name: this key is called {names[peer.fingerprint]!r} elsewhere in this file")
            elif keys.setdefault(peer.name, peer.fingerprint) != peer.fingerprint:
                faults.append(f"{place}.name: another key is called {peer.name!r} in this file")
            seen.add(peer.fingerprint)
