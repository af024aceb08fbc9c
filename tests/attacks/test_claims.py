"""Attack: claim much, and send little, or all of it: an aggregator's memory and time, for as long as one likes.

A hundred members say that they have the longest chain, the largest model, the largest job and the longest message. What
an aggregator has agreed on bounds what it makes room for; what has arrived, how long it waits; and there are always
others who can be asked.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any, Final

import pytest

from cloister.attest.attester.measure import measure
from cloister.errors import NetworkError, NoAnswerError
from cloister.ledger import job as jobs
from cloister.ledger.job import Tensors
from cloister.net.attested import attest_peer
from cloister.net.connection import Connection
from cloister.net.handshake_client import greet
from cloister.net.identity import Identity
from cloister.net.policy import AttestationPolicy
from cloister.testing.charters import write_charter
from cloister.testing.processes import Service
from cloister.wire import rounds as w
from cloister.wire.frames import Kind, pack_prefix
from cloister.wire.limits import CHAIN_BYTES, HEADER_BYTES, RECORD_BYTES
from cloister.wire.messages import encode
from tests.enclave.test_server import heard_out, researching, seated
from tests.support import charters
from tests.support.attested import ADDRESS
from tests.support.lines import Table
from tests.support.owners import CONSTANTS, LENGTH, first_model, make_job, parts_of, plan_of

MIB: Final = 1 << 20
HOSTILE: Final = {"owner": 50, "researcher": 25, "auditor": 25}
SENT: Final = 160 * MIB
"""What one of them sends of what it claims, or nearly."""
BOUND: Final = 100 * (HEADER_BYTES + 200_000) + 64 * MIB
"""For each member the longest message and its connection; and a few MiB for each body that is on its way."""


class Crowd:
    """A hundred members of a charter who are against it, an owner and a researcher who are not, and its aggregator."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        roles = [role for role, count in HOSTILE.items() for _ in range(count)]
        self.hostile = {f"{role}{number}": role for number, role in enumerate(roles)}
        everybody = {**self.hostile, "alice": "owner", "rosa": "researcher"}
        self.identities = {name: Identity.create(folder / f"{name}.key") for name in everybody}
        self.plan = plan_of(parts_of(LENGTH))
        self.charter = write_charter(
            folder / "charter.toml",
            members={name: (role, self.identities[name]) for name, role in everybody.items()},
            addresses=[ADDRESS],
            floor=2,
            rounds=1000,
            interactive=False,
            clip_buffers=1.0,
            measurements=[measure("aggregator")],
            first_model=Tensors(parts_of(LENGTH), (), CONSTANTS).name_of(first_model()),
            jobs=[charters.agreed_job(hashlib.sha256(self.plan).digest())],
        )
        (folder / "charter.cbor").write_bytes(self.charter.encoded)

    @contextmanager
    def serving(self) -> Iterator[None]:
        words = ["--charter", str(self.folder / "charter.cbor"), "--tee", "simulated", "--listen", "127.0.0.1:0"]
        self.service = Service(words, log=self.folder / "log", program=("-m", "cloister.enclave"))
        try:
            self.at, _ = self.service.ready()
            yield
        finally:
            self.service.end()

    def resident(self, what: str = "VmHWM") -> int:
        """The aggregator's memory, in bytes; by default the most that it ever had."""
        status = Path(f"/proc/{self.service.process.pid}/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(what)) * 1024

    def connect(self, name: str) -> Connection:
        policy = AttestationPolicy(charter=self.charter, accept_simulated=True)
        attested = attest_peer(ADDRESS, policy=policy, identity=self.identities[name], at=self.at, within_s=30.0)
        greet(attested.connection, purpose="study", software="test", wait_s=30.0)
        return attested.connection


def said(connection: Connection, kind: type, *, wait_s: float = 30.0) -> Any:
    """The next message of this kind; those before it are passed over."""
    while True:
        frame = connection.receive(wait_s=wait_s)
        connection.skip(frame.body_bytes)
        if isinstance(message := frame.message(), kind):
            return message


def claim(connection: Connection, message: Any, first: bytes, claimed: int, *, sent: int) -> None:
    """Says that a body of ``claimed`` bytes follows, and sends so much of it."""
    connection.send_raw(Kind.ROUND, encode(message), claimed)
    block = memoryview(bytes(MIB))
    with suppress(NetworkError):
        connection.send_body(memoryview(first))
        for _ in range(sent // MIB):
            connection.send_body(block)


def chain_of(connection: Connection, crowd: Crowd, *, sent: int) -> None:
    """Has more records than anybody, and hands over as many as fit into a message, each as long as one may be."""
    connection.send(Kind.ROUND, w.Join(2000, bytes(32), 0, True))
    with suppress(NoAnswerError):  # it is not asked
        if sent:
            said(connection, w.HandOver, wait_s=5.0)
        claim(connection, w.Chain(1, (RECORD_BYTES,) * (CHAIN_BYTES // RECORD_BYTES)), b"", CHAIN_BYTES, sent=sent)


def job_of(connection: Connection, crowd: Crowd, *, sent: int) -> None:
    """Submits a job with the charter's plan, and a model of 1 GiB."""
    connection.send(Kind.ROUND, w.Join(0, b"", 0, False))
    said(connection, w.Chain)
    data = jobs.encode(make_job(crowd.charter, plan=crowd.plan, parts=parts_of(1 << 28)))
    claim(connection, w.Submit(len(data)), data, len(data) + (1 << 30), sent=sent)


def header_of(connection: Connection, crowd: Crowd, *, sent: int) -> None:
    """Begins a message as long as one may be, and does not end it."""
    connection.send(Kind.ROUND, w.Join(0, b"", 0, False))
    connection._write(pack_prefix(Kind.ROUND, header_bytes=HEADER_BYTES) + bytes(HEADER_BYTES - 1))


MOVES: Final = {"owner": chain_of, "researcher": job_of, "auditor": header_of}


@pytest.mark.e2e
@pytest.mark.slow
def test_a_hundred_members_that_claim_the_most_of_everything(tmp_path: Path) -> None:
    """The aggregator is a process of its own, so that its memory is what the kernel says of it."""
    crowd = Crowd(tmp_path)
    with crowd.serving(), ExitStack() as held:
        before = crowd.resident()
        large = {"owner": 3, "researcher": 3, "auditor": 0}
        for name, role in crowd.hostile.items():
            connection = crowd.connect(name)
            held.callback(connection.close)
            large[role] -= 1
            MOVES[role](connection, crowd, sent=SENT if large[role] >= 0 else 0)
        grown = crowd.resident() - before
        assert grown < BOUND, f"{grown / MIB:.0f} MiB, and {BOUND / MIB:.0f} are the bound"
        rosa = crowd.connect("rosa")
        held.callback(rosa.close)
        rosa.send(Kind.ROUND, w.Join(0, b"", 0, False))
        said(rosa, w.Chain)
        data = jobs.encode(make_job(crowd.charter, plan=crowd.plan, parts=parts_of(LENGTH)))
        body = [memoryview(data), memoryview(first_model().tobytes())]
        rosa.send(Kind.ROUND, w.Submit(len(data)), body)
        assert said(rosa, w.Accepted).done == 0
        assert crowd.resident() - before < BOUND
        assert crowd.service.process.poll() is None


@pytest.mark.slow
def test_one_that_hands_over_slowly_does_not_hold_up_an_instance_that_goes_on(tmp_path: Path) -> None:
    """Mallory is an owner, says that it has more than all others, and sends 4 MiB of it in crumbs."""
    table = Table(tmp_path, agreed={"rounds": 2})
    with table.serving(), seated(table, "alice", "chuck"):
        line = researching(table)
        table.submit(line)
        assert heard_out(table, line).done == 2
        line.close()
    over = threading.Event()
    with table.serving(), ExitStack() as held:
        bob = table.dial("bob")
        held.callback(bob.close)
        bob.say(w.Join(5, bytes(32), 0, False))
        bob.until(w.HandOver)
        bob.connection.send_raw(Kind.ROUND, encode(w.Chain(1, (RECORD_BYTES,) * 4)), 4 << 20)
        crumbs = threading.Thread(target=crumble, args=(bob.connection, over))
        crumbs.start()
        held.callback(over.set)
        began = monotonic()
        with seated(table, "alice", "chuck"):
            line = researching(table)
            table.submit(line)
            assert heard_out(table, line).done == 2
            line.close()
        assert monotonic() - began < 5.0
        over.set()
        crumbs.join()


def crumble(connection: Connection, over: threading.Event) -> None:
    with suppress(NetworkError):
        while not over.wait(0.05):
            connection.send_body(memoryview(bytes(1000)))
