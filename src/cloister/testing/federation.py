"""A federation on one machine: real nodes, each a process of its own, over mutual TLS on loopback.

For tests, measurements and demonstrations. Nothing in it is simulated but the distance.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from cloister.errors import ConfigurationError, UnreachableError
from cloister.net.identity import Identity

if TYPE_CHECKING:
    from cloister.net.client import RemoteWorker

_STOP_S: Final = 20.0
_CONNECT_S: Final = 60.0
"""An executor has to import PyTorch before it can take its first session."""


@dataclass(frozen=True)
class LocalDataSet:
    """A data set for a node: an array in a file, and the tags that find it."""

    file: Path
    tensor: str
    tags: Sequence[str]
    unsafe_interactive: bool = False


@dataclass(frozen=True)
class LocalNode:
    """A node's process, once it is ready."""

    process: subprocess.Popen[str]
    address: str
    fingerprint: str


class LocalFederation:
    """Nodes that know each other by their keys, and one researcher whom they let in.

    A node is told the address of the nodes that were started before it, so values can be moved from later ones to
    earlier ones. As a context manager it leaves no process behind.

    Args:
        folder: where keys, configurations and logs go; it must exist.
        names: of the nodes; each is started by ``start``.
        session: lines for the nodes' ``[session]`` table, such as ``{"memory": "256 MiB"}``.
    """

    def __init__(self, folder: Path, names: Sequence[str], *, session: Mapping[str, str | int] | None = None) -> None:
        self.folder = folder
        self.researcher = Identity.create(folder / "researcher.key")
        self.identities = {name: Identity.create(folder / f"{name}.key") for name in names}
        self.nodes: dict[str, LocalNode] = {}
        self._session = dict(session or {})
        self._started: dict[str, subprocess.Popen[str]] = {}
        self._logs: list[IO[str]] = []

    def start(self, *names: str, data_sets: Mapping[str, Sequence[LocalDataSet]] | None = None) -> None:
        """Starts nodes, all of ``names`` at once, and waits until they are ready.

        Raises:
            UnreachableError: one did not start; the message holds the end of its log.
        """
        for name in names:
            self._launch(name, (data_sets or {}).get(name, ()))
        for name in names:
            self.nodes[name] = self._await(name)

    def connect(self, name: str, *, address: str | None = None, answer_s: float = 60.0) -> RemoteWorker:
        """A session at a node, as the researcher; ``address`` is that of something in between, if there is."""
        from cloister.net.client import connect

        node = self.nodes[name]
        return connect(
            address or node.address,
            identity=self.researcher,
            peer=node.fingerprint,
            connect_s=_CONNECT_S,
            answer_s=answer_s,
        )

    def log(self, name: str) -> str:
        """What a node has written to its log."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8")

    def close(self) -> None:
        """Ends the nodes as their owners would; one that does not go is killed."""
        for process in self._started.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._started.values():
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        for log in self._logs:
            log.close()
        self._logs.clear()

    def __enter__(self) -> LocalFederation:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _launch(self, name: str, data_sets: Sequence[LocalDataSet]) -> None:
        if name not in self.identities or name in self._started:
            raise ConfigurationError(f"{name!r} is no node of this federation, or is running already")
        file = self.folder / f"{name}.toml"
        file.write_text(self._configuration(name, data_sets), encoding="utf-8")
        log = (self.folder / f"{name}.log").open("w", encoding="utf-8")
        self._logs.append(log)
        self._started[name] = subprocess.Popen(
            [sys.executable, "-m", "cloister", "node", "serve", str(file)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )

    def _await(self, name: str) -> LocalNode:
        process = self._started[name]
        line = process.stdout.readline() if process.stdout is not None else ""
        words = line.split()
        if words[:1] != ["ready"]:
            raise UnreachableError(f"{name} did not start; its log ends: {self.log(name)[-2000:]}")
        return LocalNode(process, words[-2], words[-1])

    def _configuration(self, name: str, data_sets: Sequence[LocalDataSet]) -> str:
        # A JSON text is also a TOML one.
        lines = [
            f"name = {json.dumps(name)}",
            'listen = "127.0.0.1:0"',
            f"identity = {json.dumps(str(self.identities[name].path))}",
            "[session]",
            *(f"{key} = {json.dumps(value)}" for key, value in self._session.items()),
            "[[researchers]]",
            'name = "researcher"',
            f'fingerprint = "{self.researcher.fingerprint}"',
        ]
        for other, identity in self.identities.items():
            if other != name:
                lines += ["[[workers]]", f"name = {json.dumps(other)}", f'fingerprint = "{identity.fingerprint}"']
                if other in self.nodes:
                    lines.append(f'address = "{self.nodes[other].address}"')
        for data_set in data_sets:
            lines += [
                "[[data_sets]]",
                f"tags = {json.dumps(list(data_set.tags))}",
                f"file = {json.dumps(str(data_set.file))}",
                f"tensor = {json.dumps(data_set.tensor)}",
                f"unsafe_interactive = {json.dumps(data_set.unsafe_interactive)}",
            ]
        return "\n".join([*lines, ""])
