"""The operator of the machine under a TEE node: records all traffic, reads the disk, edits files, restarts the process.

The TEE is simulated, so the process's memory is not part of this: a real one is what keeps the operator out of that.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import cloister
from cloister import Identity
from cloister.attest.attester.measure import measure
from cloister.errors import UnacceptableError, WorkerError
from cloister.net.attested import AttestedConnection, attest_peer
from cloister.net.policy import AttestationPolicy, configuration_digest, read_reference
from cloister.testing.charters import sign_charter, write_charter
from cloister.testing.processes import Service
from cloister.wire.frames import Kind
from cloister.wire.peers import parse_address

pytestmark = pytest.mark.e2e

NAME = "cloud.example:7443"
MARK = b"PATIENT 4711 HAS A SECRET"
"""Stands in the data set, so that a trace of plaintext can be looked for."""

CONFIGURATION = """
name = "cloud"
listen = "127.0.0.1:0"
state = "cloud.state"
[tee]
kind = "simulated"
address = "cloud.example:7443"
[charter]
file = "charter.toml"
signatures = "charter.sigs"
accept_simulated = true
[session]
memory = "256 MiB"
max_sessions = 2
spare_executors = 1
grace = "2 s"
threads = 1
[[researchers]]
name = "carol"
fingerprint = "{carol}"
[[data_sets]]
tags = ["#mri"]
file = "mri.npz.sealed"
tensor = "x"
key = "mri"
key_from = "{bob}"
unsafe_interactive = true
"""

SOFTWARE = """
[[software]]
name = "node"
tee = "simulated"
measurement = ["{measurement}"]
min_svn = 1
platforms = "any"
"""


class Tap:
    """Stands between, and keeps every byte that passes."""

    def __init__(self, target: str) -> None:
        self.heard = bytearray()
        self._target = target
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._pass_on, args=(client,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.create_connection(parse_address(self._target)) as server:
            back = threading.Thread(target=self._copy, args=(server, client), daemon=True)
            back.start()
            self._copy(client, server)
            back.join(10.0)

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                self.heard += piece
                sink.sendall(piece)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join(10.0)


class Cloud:
    """Bob's node on somebody else's machine, in a folder that is the operator's disk; bob's own files are elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.disk = folder / "disk"
        self.own = folder / "bob"
        for each in (self.disk, self.own):
            each.mkdir()
        self.bob = Identity.create(self.own / "bob.key")
        self.carol = Identity.create(self.own / "carol.key")
        other = Identity.create(self.own / "alice.key")
        members = {"bob": ("owner", self.bob), "alice": ("owner", other), "carol": ("researcher", self.carol)}
        self.charter = write_charter(self.disk / "charter.toml", members=members, addresses=["agg.example:7443"])
        sign_charter(self.charter, self.disk / "charter.sigs", signers={"bob": self.bob, "alice": other})
        self.text = CONFIGURATION.format(bob=self.bob.fingerprint, carol=self.carol.fingerprint)
        (self.disk / "node.toml").write_text(self.text)
        (self.own / "software.toml").write_text(SOFTWARE.format(measurement=measure("node").hex()))
        self.values = np.frombuffer(MARK * 1000, dtype=np.uint8).astype(np.uint8)
        np.savez(self.own / "mri.npz", x=self.values)
        self.run("data", "seal", "mri.npz", "--out", str(self.disk / "mri.npz.sealed"), "--key", "mri.key")
        self.key = (self.own / "mri.key").read_bytes()
        self._services: list[Service] = []

    def run(self, *words: str) -> None:
        from cloister.cli import main

        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.own)
            with pytest.raises(SystemExit) as ended:
                main(words)
        assert not ended.value.code

    def start(self) -> str:
        """Starts the node anew and returns its address."""
        arguments = ["node", "serve", str(self.disk / "node.toml")]
        self._services.append(Service(arguments, log=self.disk / f"log{len(self._services)}"))
        return self._services[-1].ready()[0]

    def stop(self) -> None:
        for service in self._services:
            service.end()

    @property
    def policy(self) -> AttestationPolicy:
        return AttestationPolicy(
            charter=self.charter,
            role="node",
            reference=read_reference(self.own / "software.toml"),
            configuration=configuration_digest(self.text),
            accept_simulated=True,
        )

    def attest(self, at: str) -> AttestedConnection:
        return attest_peer(NAME, policy=self.policy, identity=self.bob, at=at)

    def provision(self, at: str) -> None:
        files = {"--secret": "mri.key", "--key": "bob.key", "--software": "software.toml"}
        words = [word for option, file in files.items() for word in (option, file)]
        for option, file in {"--charter": "charter.toml", "--configuration": "node.toml"}.items():
            (self.own / file).write_bytes((self.disk / file).read_bytes())
            words += [option, file]
        self.run("provision", NAME, "--name", "mri", *words, "--at", at, "--accept-simulated")

    def search(self, at: str) -> list[torch.Tensor]:
        worker = cloister.connect(NAME, identity=self.carol, policy=self.policy, at=at, connect_s=60.0)
        with worker:
            return [found.get() for found in worker.search("#mri")]


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    cloud = Cloud(tmp_path)
    try:
        yield cloud
    finally:
        cloud.stop()


@pytest.mark.slow
def test_the_operator_learns_nothing(cloud: Cloud) -> None:
    tap = Tap(cloud.start())
    try:
        with pytest.raises(WorkerError, match="key"):
            cloud.search(tap.address)
        cloud.provision(tap.address)
        [found] = cloud.search(tap.address)
        assert found.tolist() == cloud.values.tolist()
    finally:
        cloud.stop()
        tap.close()
    traces = (cloud.key, cloud.key.hex().encode(), MARK)
    assert len(tap.heard) > len(cloud.values)
    for trace in traces:
        assert trace not in tap.heard
    files = [file for file in cloud.disk.rglob("*") if file.is_file()]
    assert {"mri.npz.sealed", "log0", "node.toml"} <= {file.name for file in files}
    for file in files:
        content = file.read_bytes()
        assert not any(trace in content for trace in traces), file
    # Nothing of it is there after a restart, and what was recorded is of no use to the new instance.
    again = cloud.start()
    with pytest.raises(WorkerError, match="key"):
        cloud.search(again)


@pytest.mark.slow
def test_a_secret_recorded_before_a_restart_does_not_open_in_the_next_instance(cloud: Cloud) -> None:
    """Worse than a network: one who sees the sealed secret itself, and plays it into a later instance's channel."""
    recorded: list[bytes] = []
    with cloud.attest(cloud.start()) as attested:
        send = attested.connection.send

        def recording(kind: Kind, message: object, *rest: object) -> None:
            recorded.append(message)  # type: ignore[arg-type]
            send(kind, message, *rest)  # type: ignore[arg-type]

        attested.connection.send = recording  # type: ignore[method-assign,assignment]
        attested.provision("mri", cloud.key)
    assert len(recorded) == 1
    with cloud.attest(cloud.start()) as later:
        later.connection.send(Kind.PROVISION, recorded[0])  # type: ignore[arg-type]
        frame = later.connection.receive(wait_s=10.0)
        assert frame.kind is Kind.FAILURE
        later.provision("mri", cloud.key)  # the connection goes on, and the real one is taken


@pytest.mark.slow
def test_an_edited_configuration_gets_no_key(cloud: Cloud) -> None:
    mallory = Identity.create(cloud.own / "mallory.key")
    edited = cloud.text.replace(cloud.carol.fingerprint, mallory.fingerprint)
    (cloud.disk / "node.toml").write_text(edited)
    with pytest.raises(UnacceptableError, match="another configuration"):
        cloud.attest(cloud.start())


@pytest.mark.slow
def test_comments_and_layout_are_no_other_configuration(cloud: Cloud) -> None:
    (cloud.disk / "node.toml").write_text("# moved\n" + cloud.text.replace(" = ", "   =   "))
    with cloud.attest(cloud.start()) as attested:
        assert attested.transcript.configuration == configuration_digest(cloud.text)


@pytest.mark.slow
def test_a_stranger_provisions_nothing(cloud: Cloud) -> None:
    at = cloud.start()
    mallory = Identity.create(cloud.own / "mallory.key")
    for identity in (mallory, cloud.carol, None):
        with attest_peer(NAME, policy=cloud.policy, identity=identity, at=at) as attested, pytest.raises(WorkerError):
            attested.provision("mri", bytes(32))
    with cloud.attest(at) as attested:
        attested.provision("mri", cloud.key)
        attested.provision("mri", cloud.key)  # the same again is done already
        with pytest.raises(WorkerError, match="another secret"):
            attested.provision("mri", bytes(32))


@pytest.mark.slow
def test_a_stranger_opens_no_session(cloud: Cloud) -> None:
    mallory = Identity.create(cloud.own / "mallory.key")
    with pytest.raises(cloister.errors.PeerRefusedError):
        cloister.connect(NAME, identity=mallory, policy=cloud.policy, at=cloud.start(), connect_s=60.0)
