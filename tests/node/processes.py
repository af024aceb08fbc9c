"""Real node processes, and callers that speak to them in bare frames."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cloister.errors import ConnectionLostError
from cloister.net.connection import Connection
from cloister.net.dial import dial
from cloister.net.handshake_client import greet
from cloister.net.identity import Identity
from cloister.tensor import optable
from cloister.wire import sessions as m
from cloister.wire.frames import Kind
from cloister.wire.tensors import TensorSpec

PATIENCE_S = 60.0


@dataclass
class NodeProcess:
    """A `cloister node serve` that is ready."""

    process: subprocess.Popen[str]
    address: str
    fingerprint: str
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def executors(self) -> set[int]:
        """The process ids of its executors, spares included."""
        pids: set[int] = set()
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            pids |= {int(pid) for pid in (task / "children").read_text().split()}
        return pids

    def newest_executor(self) -> int:
        """The process id of the executor that serves the session opened last, from the log."""
        return int(re.findall(r": opened, executor (\d+)", self.log.read_text())[-1])

    def end(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


@contextmanager
def node(
    folder: Path,
    *,
    name: str = "bob",
    identity: Identity | None = None,
    researchers: Sequence[Identity] = (),
    session: str = "",
    more: str = "",
    port: int = 0,
) -> Iterator[NodeProcess]:
    """A node process with this configuration. It and its executors are gone afterwards, whatever happened."""
    identity = identity or Identity.create(folder / f"{name}.key")
    lines = [f'name = "{name}"', f'listen = "127.0.0.1:{port}"', f'identity = "{identity.path}"', "[session]", session]
    for index, researcher in enumerate(researchers):
        lines += ["[[researchers]]", f'name = "researcher{index}"', f'fingerprint = "{researcher.fingerprint}"']
    file = folder / f"{name}.toml"
    file.write_text("\n".join([*lines, more]))
    log = folder / f"{name}.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "cloister", "node", "serve", str(file)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
    pids: set[int] = set()
    try:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], PATIENCE_S)[0], log.read_text()
        line = process.stdout.readline()
        ready = re.fullmatch(r"ready (\S+) at (\S+) (sha256:[0-9a-f]{64})\n", line)
        assert ready, line + log.read_text()
        running = NodeProcess(process, ready[2], ready[3], log)
        pids = running.executors()
        yield running
    finally:
        if process.poll() is None:
            with suppress(FileNotFoundError):
                pids |= running.executors() if pids else set()
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE_S)
        if process.stdout is not None:
            process.stdout.close()
        for pid in pids:
            assert gone(pid), f"executor {pid} outlived its node"


def gone(pid: int, within_s: float = PATIENCE_S) -> bool:
    """Whether a process (not necessarily a child of ours) ends within this time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], within_s)[0])
    finally:
        os.close(descriptor)


class Caller:
    """A caller's session, in bare frames."""

    def __init__(self, connection: Connection, executor: int) -> None:
        self.connection = connection
        self.executor = executor
        """The process id of its executor; the node logs it before it lets the caller in."""

    @classmethod
    def open(cls, running: NodeProcess, identity: Identity) -> Self:
        connection = dial(running.address, identity=identity, peer=running.fingerprint, within_s=PATIENCE_S)
        greet(connection, purpose="session", software="tests", table=optable.digest(), wait_s=PATIENCE_S)
        return cls(connection, running.newest_executor())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def batch(self, *commands: m.Command, bodies: Sequence[bytes] = ()) -> None:
        self.connection.send(Kind.BATCH, m.Batch([*commands]), [memoryview(body) for body in bodies])

    def put(self, id: int, data: bytes) -> None:
        """Bytes as a uint8 tensor."""
        self.batch(m.Put(id, TensorSpec("uint8", (len(data),))), bodies=[data])

    def post(self, question: m.Question) -> None:
        self.connection.send(Kind.ASK, m.Ask([], question))

    def receive(self) -> tuple[Kind, Any, bytes]:
        frame = self.connection.receive(wait_s=PATIENCE_S)
        body = bytearray(frame.body_bytes)
        self.connection.read_into(memoryview(body))
        return frame.kind, frame.message(m.VOCABULARY), bytes(body)

    def ask(self, question: m.Question) -> tuple[Kind, Any, bytes]:
        self.post(question)
        return self.receive()

    def fetch(self, id: int) -> bytes:
        kind, message, body = self.ask(m.Fetch((id,)))
        assert kind is Kind.ANSWER, message
        return body

    def count(self) -> int:
        kind, message, _ = self.ask(m.Count())
        assert kind is Kind.ANSWER, message
        return int(message.objects)


def closed(connection: Connection) -> bool:
    """Whether the other end closes the connection, in time, without another frame."""
    try:
        connection.receive(wait_s=PATIENCE_S)
    except ConnectionLostError:
        return True
    return False
