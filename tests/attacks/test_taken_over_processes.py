"""Attack: native code of somebody's own in an executor or a trainer, after an exploit of an operation or a parser.

It holds no key; so it reads the node's, another data set, the listener's memory, speaks to the network, runs a program.
Confined, it can do none of it, from none of its threads. Each call is also made from the same process unconfined, where
it reaches what it is after: it is the confinement that it fails for.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from cloister.net.identity import Identity
from cloister.node import confinement, process
from cloister.node.data_files import DataSetEntry
from cloister.node.process import Process
from cloister.node.session.child import Assignment, Child
from cloister.node.study.trainer import Assignment as TrainersAssignment
from cloister.node.study.trainer import Columns, Given
from cloister.wire.tensors import TensorSpec
from tests.attacks.native_calls import CALLS, RARE, SECRET, Targets
from tests.attacks.taken_over import Answers, Orders

ROOT = Path(__file__).parents[2]
PATIENCE_S = 100.0
THREADS = 3
SPOILT = ("write", "cut", "truncate", "chmod", "chown", "utimes", "unlink", "rename")

VICTIM = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)  # any process of this user may trace it
held = ctypes.create_string_buffer(os.environ["SECRET"].encode())
print(ctypes.addressof(held), flush=True)
sys.stdin.read()
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(confinement.means()), reason="this machine's kernel confines nothing, or only in part; the node says so"
    ),
]


@pytest.fixture
def targets(tmp_path: Path) -> Iterator[Targets]:
    """Something of each kind, new for each process that attacks it."""
    key = Identity.create(tmp_path / "node.key").path
    with key.open("ab") as file:
        file.write(SECRET)
    own = tmp_path / "own.npz"
    own.write_bytes(SECRET)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in SPOILT:
        (folder / name).write_bytes(b"as it was")
    abstract = f"cloister tests {os.getpid()} {tmp_path.name}"
    with ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for address in (b"\0" + abstract.encode(), str(folder / "socket").encode()):
            listening = stack.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(address)
            listening.listen()
        victim = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", VICTIM],
                env={"SECRET": SECRET.decode()},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        assert victim.stdout is not None
        yield Targets(
            key=str(key),
            own=str(own),
            folder=str(folder),
            tcp=tcp.getsockname()[1],
            unix=str(folder / "socket"),
            abstract=abstract,
            victim=victim.pid,
            address=int(victim.stdout.readline()),
        )
        victim.kill()


def attacked(monkeypatch: pytest.MonkeyPatch, targets: Targets, *, trains: bool, confined: bool) -> Answers:
    """What a process answers that was started and told what a real one is."""
    orders = msgspec.json.encode(Orders(trains, confined, targets)).decode()
    more = {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "CLOISTER_TARGETS": orders}
    real = process._environment
    monkeypatch.setattr(process, "_environment", lambda: real() | more)
    started = Process.start("tests.attacks.taken_over", links=1 if trains else 2)
    try:
        first = TrainersAssignment if trains else Assignment
        given = {} if trains else {"objects": 10}
        started.tell(
            msgspec.json.encode(first(os.getpid(), memory_bytes=1 << 20, device="cpu", threads=THREADS, **given))
            + b"\n"
        )
        link = started.links[0]
        link.receive()
        if trains:
            started.tell(msgspec.json.encode(Given(Columns("#own", targets.own, ("x",)), models=())), last=True)
        else:
            entry = DataSetEntry(("#own",), targets.own, "x", TensorSpec("uint8", (1,)), unsafe_interactive=True)
            other = DataSetEntry(("#other",), targets.key, "x", TensorSpec("uint8", (1,)), unsafe_interactive=False)
            Child(started).open([entry, other])
        return msgspec.json.decode(link.receive().header, type=Answers)
    finally:
        started.end()


@pytest.mark.parametrize("trains", [False, True], ids=["executor", "trainer"])
def test_what_a_process_reaches_that_was_taken_over(
    monkeypatch: pytest.MonkeyPatch, targets: Targets, trains: bool
) -> None:
    found = attacked(monkeypatch, targets, trains=trains, confined=True)
    assert found.calls.pop("own")
    assert found.calls.keys() <= CALLS.keys() | RARE.keys()
    assert not {name for name, reached in found.calls.items() if reached}
    assert len(found.threads) == THREADS
    assert not any(found.threads.values())
    folder = Path(targets.folder)
    assert sorted(each.name for each in folder.iterdir()) == sorted((*SPOILT, "socket"))
    assert {(folder / name).read_bytes() for name in SPOILT} == {b"as it was"}


def test_what_it_reaches_unconfined(monkeypatch: pytest.MonkeyPatch, targets: Targets) -> None:
    """Or the test above would show nothing."""
    found = attacked(monkeypatch, targets, trains=False, confined=False)
    assert not {name for name in CALLS if not found.calls.get(name)}
    assert len(found.threads) == THREADS
    assert all(found.threads.values())
