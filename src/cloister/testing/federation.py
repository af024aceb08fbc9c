"""A federation on one machine: real nodes, each a process of its own, over mutual TLS on loopback.

For tests, measurements and demonstrations. Nothing in it is simulated but the distance.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cloister.charter import Charter
from cloister.errors import ConfigurationError
from cloister.net.identity import Identity
from cloister.net.policy import AttestationPolicy
from cloister.testing.charters import sign_charter, write_charter
from cloister.testing.processes import Service, end_all

if TYPE_CHECKING:
    from cloister.net.client import RemoteWorker

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
        aggregator: the name of an aggregator, such as ``aggregator.example:7443``. There is then a charter, signed by
            all nodes as owners and by the researcher; ``start_aggregator`` starts an aggregator under it in a simulated
            TEE, and nodes that are started later give it values once it has proved itself.
        interactive: whether the charter's aggregator takes a researcher's operations.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        *,
        session: Mapping[str, str | int] | None = None,
        aggregator: str | None = None,
        interactive: bool = True,
    ) -> None:
        self.folder = folder
        self.researcher = Identity.create(folder / "researcher.key")
        self.identities = {name: Identity.create(folder / f"{name}.key") for name in names}
        self.nodes: dict[str, LocalNode] = {}
        self._session = dict(session or {})
        self._services: dict[str, Service] = {}
        self._aggregator = aggregator
        self._route = ""
        self.charter = None if aggregator is None else self._agree(aggregator, interactive=interactive)

    def start(self, *names: str, data_sets: Mapping[str, Sequence[LocalDataSet]] | None = None) -> None:
        """Starts nodes, all of ``names`` at once, and waits until they are ready.

        Raises:
            UnreachableError: one did not start; the message holds the end of its log.
        """
        for name in names:
            self._launch(name, (data_sets or {}).get(name, ()))
        for name in names:
            service = self._services[name]
            self.nodes[name] = LocalNode(service.process, *service.ready())

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

    def start_aggregator(self) -> str:
        """Starts an aggregator under the charter, and returns where it listens.

        Raises:
            UnreachableError: it did not start; the message holds the end of its log.
        """
        arguments = ["aggregator", "serve", "--charter", str(self.folder / "charter.toml"), "--tee", "simulated"]
        arguments += ["--listen", "127.0.0.1:0", "--memory", str(self._session.get("memory", "512 MiB"))]
        service = self._services["aggregator"] = Service(arguments, log=self.folder / "aggregator.log")
        self._route, _ = service.ready()
        return self._route

    @property
    def agreed(self) -> Charter:
        """The charter.

        Raises:
            ConfigurationError: there is none.
        """
        if self.charter is None:
            raise ConfigurationError("this federation has no charter: name its aggregator")
        return self.charter

    def policy(self) -> AttestationPolicy:
        """What an aggregator of the charter has to prove. It is simulated, so that proves nothing."""
        return AttestationPolicy(charter=self.agreed, accept_simulated=True)

    def connect_to_aggregator(self, *, at: str | None = None, answer_s: float = 60.0) -> RemoteWorker:
        """A session at the aggregator, as the researcher, once it has proved itself."""
        from cloister.net.client import connect

        return connect(
            self._aggregator or "",
            identity=self.researcher,
            policy=self.policy(),
            at=at or self._route,
            connect_s=_CONNECT_S,
            answer_s=answer_s,
        )

    def log(self, name: str) -> str:
        """What a node has written to its log."""
        return self._services[name].log()

    def close(self) -> None:
        """Ends the nodes as their owners would; one that does not go is killed."""
        end_all(list(self._services.values()))

    def __enter__(self) -> LocalFederation:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _agree(self, aggregator: str, *, interactive: bool) -> Charter:
        owners = {name: ("owner", identity) for name, identity in self.identities.items()}
        charter = write_charter(
            self.folder / "charter.toml",
            members={**owners, "researcher": ("researcher", self.researcher)},
            addresses=[aggregator],
            interactive=interactive,
        )
        signers = {**self.identities, "researcher": self.researcher}
        sign_charter(charter, self.folder / "charter.sigs", signers=signers)
        return charter

    def _launch(self, name: str, data_sets: Sequence[LocalDataSet]) -> None:
        if name not in self.identities or name in self._services:
            raise ConfigurationError(f"{name!r} is no node of this federation, or is running already")
        file = self.folder / f"{name}.toml"
        file.write_text(self._configuration(name, data_sets), encoding="utf-8")
        log = self.folder / f"{name}.log"
        self._services[name] = Service(["node", "serve", str(file)], log=log)

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
        if self.charter is not None and self._route:
            lines.insert(0, f'state = "{name}.state"')
            lines += ["[charter]", 'file = "charter.toml"', 'signatures = "charter.sigs"', "accept_simulated = true"]
            lines += ["[charter.routes]", f"{json.dumps(self._aggregator)} = {json.dumps(self._route)}"]
        for data_set in data_sets:
            lines += [
                "[[data_sets]]",
                f"tags = {json.dumps(list(data_set.tags))}",
                f"file = {json.dumps(str(data_set.file))}",
                f"tensor = {json.dumps(data_set.tensor)}",
                f"unsafe_interactive = {json.dumps(data_set.unsafe_interactive)}",
            ]
        return "\n".join([*lines, ""])
