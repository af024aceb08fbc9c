"""A study of real parts: an aggregator and owners' nodes in threads, their training in processes, and a researcher."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

import cloister
from cloister.charter import Charter
from cloister.charter.toml import parse_charter
from cloister.enclave.server import Aggregator
from cloister.ledger import job as jobs
from cloister.ledger.job import Job, Part, Tensors, job_digest
from cloister.net.attested import AttestedConnection, attest_peer
from cloister.net.handshake_client import greet
from cloister.net.identity import Identity
from cloister.net.policy import AttestationPolicy
from cloister.net.proving import Instance
from cloister.node.server import Node
from cloister.node.setup import node_of
from cloister.node.study.journal import Records
from cloister.testing.charters import sign_charter, write_charter
from cloister.testing.studies import rehearsal_salt
from cloister.wire import rounds as w
from cloister.wire.frames import Kind
from cloister.wire.peers import Address
from cloister.worker import flatten as deltas
from cloister.worker.values import as_bytes, spec_of
from tests.support.attested import ADDRESS, ATTESTER, MEASUREMENT, serving
from tests.support.processes import wait_until

SOON: Final = 60.0
OWNERS: Final = ("alice", "bob")
ROWS: Final = {"alice": 40, "bob": 56}
SEED: Final = 5
"""Of the rehearsal: what owners' salts are made from."""
NUMBERS: Final[dict[str, Any]] = {
    "data": "#mri",
    "optimizer": cloister.SGD(lr=0.1),
    "batch_size": 16,
    "steps": 5,
    "rounds": 2,
    "max_s": 120,
}
"""Of the job."""


@cloister.plan
def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Squared error."""
    return ((model(x) - y) ** 2).mean()


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(3, 1)


def rows_of(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = np.random.default_rng(len(name))
    x = generator.normal(size=(ROWS[name], 3)).astype(np.float32)
    return torch.from_numpy(x), torch.from_numpy(x.sum(1, keepdims=True))


class Federation:
    """Two owners, a researcher and their charter; each owner has a data set and a node.toml.

    ``beside``: another one of the same owners, whose nodes work under this charter too.
    """

    def __init__(self, folder: Path, *, beside: Federation | None = None, **limits: str) -> None:
        self.folder = folder
        self.beside = beside
        if beside is None:
            self.identities = {name: Identity.create(folder / f"{name}.key") for name in (*OWNERS, "carol")}
        else:
            self.identities = beside.identities
        self.plan = loss.capture(model(), example=(torch.randn(4, 3), torch.randn(4, 1)))
        self.charter = self._agree(limits)
        self.port = 0

    def _agree(self, limits: dict[str, str]) -> Charter:
        file = self.folder / "charter.toml"
        roles = {name: ("researcher" if name == "carol" else "owner", each) for name, each in self.identities.items()}
        write_charter(
            file,
            members=roles,
            name="rehearsal" if self.beside is None else "another",
            addresses=[ADDRESS],
            measurements=[MEASUREMENT],
            interactive=False,
            jobs=[
                cloister.job("train", self.plan, **NUMBERS),
                cloister.job("once", self.plan, **{**NUMBERS, "rounds": 1}),
                cloister.job("again", self.plan, **{**NUMBERS, "rounds": 1}),
            ],
            first_model=Tensors(self.parts).name_of(self.vector),
        )
        lines = [
            f"{line.split(' = ')[0]} = {limits[line.split(' = ')[0]]}" if line.split(" = ")[0] in limits else line
            for line in file.read_text().splitlines()
        ]
        file.write_text("\n".join(lines))
        charter = parse_charter(file.read_text())
        owners = {name: self.identities[name] for name in OWNERS}
        sign_charter(charter, file.with_suffix(".sigs"), signers=owners)
        return charter

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        floats = deltas.floats_of(model())
        return tuple(Part(name, spec_of(floats[name]), buffer=False) for name in sorted(floats))

    @cached_property
    def vector(self) -> bytes:
        floats = deltas.floats_of(model())
        return bytes(as_bytes(deltas.flatten(floats, layout=deltas.layout_of(floats))))

    def job(self, **changed: Any) -> Job:
        given: dict[str, Any] = {
            "format": jobs.FORMAT,
            "charter": self.charter.digest,
            "name": "train",
            "plan": self.plan.encode(),
            "tensors": Tensors(self.parts),
            "start": self.charter.limits.first_model,
        }
        return Job(**given | changed)

    @contextmanager
    def aggregator(self) -> Iterator[Instance]:
        """A new instance, at the same address as the one before."""
        instance = Instance(role="aggregator", attester=ATTESTER, charter=self.charter.digest, name=ADDRESS)
        aggregator = Aggregator(instance, charter=self.charter, listen=Address("127.0.0.1", self.port))
        self.port = aggregator.address.port
        with serving(aggregator):
            yield instance

    def configuration(self, name: str, *, columns: str = '["x", "y"]', more: str = "") -> Path:
        """The owner's node.toml; its data set lies beside it."""
        x, y = rows_of(name)
        np.savez(self.folder / f"{name}.npz", x=x.numpy(), y=y.numpy())
        if self.beside is not None:
            other = self.beside.configuration(name, columns=columns)
            first = other.read_text().replace("[charter]", "[[charters]]")
            other.write_text(f"{first}\n[[charters]]\n{self._use(name, more)}")
            return other
        file = self.folder / f"{name}.toml"
        file.write_text(
            f'name = "{name}"\nidentity = "{name}.key"\nstate = "{name}.state"\n'
            f'[training]\nmemory = "1 GiB"\nthreads = {torch.get_num_threads()}\n'
            f'[[data_sets]]\ntags = ["#mri", "{name}"]\nfile = "{name}.npz"\ncolumns = {columns}\n'
            f"[charter]\n{self._use(name, more)}"
        )
        return file

    def _use(self, name: str, more: str) -> str:
        return (
            f'file = "{self.folder}/charter.toml"\naccept_simulated = true\n'
            f'unsafe_salt = "{rehearsal_salt(SEED, name).hex()}"\n'
            f'routes = {{ "{ADDRESS}" = "127.0.0.1:{self.port}" }}\n{more}'
        )

    @contextmanager
    def node(self, name: str, **options: str) -> Iterator[Node]:
        """The owner's node, in a thread."""
        node = node_of(self.configuration(name, **options))
        ready = threading.Event()
        thread = threading.Thread(target=node.serve, kwargs={"ready": ready.set})
        thread.start()
        try:
            assert ready.wait(SOON)
            yield node
        finally:
            node.stop()
            thread.join(SOON)
            assert not thread.is_alive()

    @contextmanager
    def nodes(self) -> Iterator[None]:
        """Both owners' nodes."""
        with ExitStack() as running:
            for name in OWNERS:
                running.enter_context(self.node(name))
            yield

    def records(self, name: str) -> Records:
        """What an owner's node has written down."""
        return Records(self.folder / f"{name}.state", read_only=True)

    def remembered(self, rounds: int) -> bool:
        """Whether both owners have so many releases in their records, in time: the researcher may hear of one first."""
        return wait_until(lambda: self.knows(self.charter, rounds), within_s=SOON)

    def knows(self, charter: Charter, rounds: int) -> bool:
        """Whether both owners have so many releases under a charter in their records."""
        for name in OWNERS:
            with closing(self.records(name)) as records:
                if len(records.released(charter.digest)) < rounds:
                    return False
        return True

    @contextmanager
    def researcher(self) -> Iterator[Researcher]:
        """Carol, connected."""
        policy = AttestationPolicy(charter=self.charter, accept_simulated=True)
        at = f"127.0.0.1:{self.port}"
        with attest_peer(ADDRESS, policy=policy, identity=self.identities["carol"], at=at) as attested:
            greet(attested.connection, purpose="study", software="tests", wait_s=SOON)
            yield Researcher(self, attested)


class Researcher:
    """Submits a job and listens."""

    def __init__(self, federation: Federation, attested: AttestedConnection) -> None:
        self.connection = attested.connection
        self.vector = federation.vector
        self.models: list[bytes] = []
        self.connection.send(Kind.ROUND, w.Join(0, b"", 0, False))

    def submit(self, job: Job) -> None:
        data = jobs.encode(job)
        bodies = [memoryview(data), memoryview(self.vector)]
        self.connection.send(Kind.ROUND, w.Submit(len(data)), bodies)
        accepted = self.until(w.Accepted)
        assert accepted.job == job_digest(data)

    def until(self, kind: type) -> Any:
        """The next message of this kind; models are kept on the way."""
        while True:
            frame = self.connection.receive(wait_s=SOON)
            assert frame.kind is Kind.ROUND, frame.message()
            message, body = frame.message(), bytearray(frame.body_bytes)
            self.connection.read_into(memoryview(body))
            if isinstance(message, w.Chain) and message.model:
                end = sum(message.records) + message.model
                self.models.append(bytes(body[end - message.model : end]))
            if isinstance(message, kind):
                return message
            assert not isinstance(message, w.Refused), message
