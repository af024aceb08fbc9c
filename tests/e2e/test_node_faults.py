"""What goes wrong around a node: each fault is a typed error for the one whom it concerns, and nobody else notices."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.errors import CloisterError, ConnectionLostError, PeerRefusedError, UnreachableError, VersionError
from cloister.net.dial import dial
from cloister.net.handshake_client import greet
from cloister.net.identity import Identity
from cloister.node.confinement import means
from cloister.tensor import optable
from cloister.wire import sessions as m
from cloister.wire.frames import Kind, pack_prefix
from cloister.wire.messages import Hello, encode
from cloister.wire.tensors import TensorSpec
from tests.node.processes import PATIENCE_S, Caller, NodeProcess, closed, gone, node

pytestmark = pytest.mark.e2e
MIB = 1 << 20


@pytest.fixture(scope="module")
def carol(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity.create(tmp_path_factory.mktemp("carol") / "carol.key")


@pytest.fixture(scope="module")
def dave(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity.create(tmp_path_factory.mktemp("dave") / "dave.key")


@pytest.fixture(scope="module")
def bob(tmp_path_factory: pytest.TempPathFactory, carol: Identity, dave: Identity) -> Iterator[NodeProcess]:
    """A node that the tests which leave it running share."""
    folder = tmp_path_factory.mktemp("bob")
    limits = 'memory = "64 MiB"\nmax_sessions = 3\nsessions_per_researcher = 3\ngrace = "2 s"'
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MY_SECRET", "clear")
        with node(folder, researchers=[carol, dave], session=limits) as running:
            yield running


@pytest.fixture(scope="module")
def session(bob: NodeProcess, carol: Identity) -> Iterator[Caller]:
    """A session that the tests which leave it whole share."""
    with Caller.open(bob, carol) as caller:
        yield caller


def test_values_of_any_length_come_back_as_they_went(session: Caller) -> None:
    for nbytes in (0, 1, 65_536, 65_537, MIB, 5 * MIB + 123):
        data = os.urandom(nbytes)
        session.put(1, data)
        assert session.fetch(1) == data
        session.batch(m.Free((1,)))


def test_many_tensors_in_one_frame(session: Caller) -> None:
    parts = [os.urandom(n) for n in (3, 700_000, 0, MIB, 17, 400_001)]
    ids = tuple(range(1, 7))
    puts = [m.Put(id, TensorSpec("uint8", (len(part),))) for id, part in zip(ids, parts, strict=True)]
    session.batch(*puts, bodies=parts)
    kind, _, body = session.ask(m.Fetch(ids))
    assert kind is Kind.ANSWER
    assert body == b"".join(parts)
    session.batch(m.Free(ids))


def test_a_body_beyond_the_limit_is_refused_and_the_session_goes_on(session: Caller) -> None:
    session.put(1, b"kept")
    session.put(2, bytes(80 * MIB))
    kind, failure, _ = session.ask(m.Fetch((1,)))
    assert (kind, failure.code) == (Kind.FAILURE, "memory")
    assert session.fetch(1) == b"kept"
    session.batch(m.Free((1, 2)))


def test_an_operation_that_needs_too_much_while_it_runs(session: Caller) -> None:
    """It reads four bytes and returns four, and needs a GiB in between: the system's limit catches it."""
    session.batch(m.Put(1, TensorSpec("float32", (1,))), bodies=[bytes(4)])
    session.batch(m.Call("aten::expand", [1, [1 << 28]], {}, (2,), None, 0))
    kind, failure, _ = session.ask(m.Describe((2,)))
    assert kind is Kind.ANSWER, failure
    session.batch(m.Call("aten::logsumexp", [2, [0]], {}, (3,), None, 7))
    kind, failure, _ = session.ask(m.Count())
    assert (kind, failure.code, failure.site) == (Kind.FAILURE, "memory", 7)
    session.batch(m.Free((1, 2, 3)))
    assert session.count() == 0


def test_executors_hold_no_key_and_know_little(bob: NodeProcess, session: Caller) -> None:
    assert session.count() == 0
    process = Path(f"/proc/{session.executor}")
    assert b"hush" not in (process / "environ").read_bytes()
    targets = [os.readlink(entry) for entry in (process / "fd").iterdir()]
    assert not [target for target in targets if target.endswith((".key", ".toml"))]
    assert sum(target.startswith("socket:") for target in targets) == 4  # its two links, and no network
    assert re.search(r"Max core file size +0 ", (process / "limits").read_text())
    assert f"executors are confined by {means()}" in bob.log.read_text()
    assert re.search(r"NoNewPrivs:\s1", (process / "status").read_text())
    assert re.search(r"Seccomp:\s2", (process / "status").read_text()) or not means().seccomp
    libraries = Path(f"/proc/{bob.pid}/maps").read_text()
    assert "libtorch" not in libraries
    assert "numpy" not in libraries


def test_two_callers_at_once_share_nothing(bob: NodeProcess, carol: Identity, dave: Identity) -> None:
    with Caller.open(bob, carol) as one, Caller.open(bob, dave) as two:
        one.put(1, b"carol's")
        assert two.count() == 0
        two.put(1, b"dave's")
        assert one.fetch(1) == b"carol's"
        assert two.fetch(1) == b"dave's"


def test_a_killed_executor_is_typed_for_its_caller_alone(bob: NodeProcess, carol: Identity, dave: Identity) -> None:
    with Caller.open(bob, carol) as hit, Caller.open(bob, dave) as other:
        other.put(1, b"here")
        os.kill(hit.executor, signal.SIGKILL)
        assert gone(hit.executor)
        hit.put(1, bytes(3 * MIB))  # callers do not wait for answers: what they still send is heard out
        kind, failure, _ = hit.ask(m.Count())
        assert (kind, failure.code) == (Kind.FAILURE, "crashed")
        assert "SIGKILL" in failure.text
        kind, refusal, _ = hit.receive()
        assert (kind, refusal.code) == (Kind.REFUSAL, "crashed")
        assert closed(hit.connection)
        assert other.fetch(1) == b"here"
    with Caller.open(bob, carol) as again:
        assert again.count() == 0


def test_an_executor_killed_over_a_question(bob: NodeProcess, carol: Identity) -> None:
    with Caller.open(bob, carol) as caller:
        os.kill(caller.executor, signal.SIGSTOP)
        caller.post(m.Count())
        os.kill(caller.executor, signal.SIGKILL)
        kind, failure, _ = caller.receive()
        assert (kind, failure.code) == (Kind.FAILURE, "crashed")


def test_an_executor_killed_in_the_middle_of_a_body(bob: NodeProcess, carol: Identity) -> None:
    with Caller.open(bob, carol) as caller:
        spec = TensorSpec("uint8", (20 * MIB,))
        header = encode(m.Ask([m.Put(1, spec)], m.Count()))
        caller.connection.send_raw(Kind.ASK, header, 20 * MIB)
        caller.connection.send_body(memoryview(bytes(10 * MIB)))
        os.kill(caller.executor, signal.SIGKILL)
        caller.connection.send_body(memoryview(bytes(10 * MIB)))
        kind, failure, _ = caller.receive()
        assert (kind, failure.code) == (Kind.FAILURE, "crashed")


def test_a_connection_cut_in_mid_frame(bob: NodeProcess, carol: Identity) -> None:
    with Caller.open(bob, carol) as caller:
        header = encode(m.Batch([m.Put(1, TensorSpec("uint8", (20 * MIB,)))]))
        caller.connection.send_raw(Kind.BATCH, header, 20 * MIB)
        caller.connection.send_body(memoryview(bytes(7 * MIB)))
        caller.connection.close()
        assert gone(caller.executor)


def test_a_caller_that_leaves_frees_its_executor(bob: NodeProcess, carol: Identity) -> None:
    with Caller.open(bob, carol) as caller:
        caller.put(1, b"x")
    assert gone(caller.executor)


def test_a_busy_executor_whose_caller_left_gets_the_grace_period(bob: NodeProcess, carol: Identity) -> None:
    with Caller.open(bob, carol) as caller:
        os.kill(caller.executor, signal.SIGSTOP)
        caller.post(m.Count())
    assert not gone(caller.executor, within_s=0.5)
    assert gone(caller.executor)


def test_a_full_node_says_so(bob: NodeProcess, carol: Identity, dave: Identity, session: Caller) -> None:
    one = Caller.open(bob, carol)
    with Caller.open(bob, dave):
        with pytest.raises(UnreachableError, match="all the sessions"):
            Caller.open(bob, dave)
        one.connection.close()
        assert gone(one.executor)
        with Caller.open(bob, dave) as three:
            assert three.count() == session.count()


def test_silent_ones_do_not_hold_up_others(bob: NodeProcess, carol: Identity) -> None:
    host, _, port = bob.address.rpartition(":")
    with socket.create_connection((host, int(port))), socket.create_connection((host, int(port))) as half:
        half.sendall(b"\x16\x03\x01")
        silent = dial(bob.address, identity=carol, peer=bob.fingerprint)
        with Caller.open(bob, carol) as idle, Caller.open(bob, carol) as caller:
            assert caller.count() == 0
            assert idle.count() == 0
        silent.close()


@pytest.mark.parametrize(
    ("kind", "header", "body"),
    [
        pytest.param(Kind.BATCH, b"\xc1 no msgpack", b"", id="garbage"),
        pytest.param(Kind.BATCH, encode(m.Batch([])), bytes(8 * MIB), id="many bytes for no tensor"),
        pytest.param(Kind.DIAL, encode(m.Dial("sha256:" + "0" * 64)), b"", id="for inside a node"),
    ],
)
def test_nonsense_is_refused(bob: NodeProcess, carol: Identity, kind: Kind, header: bytes, body: bytes) -> None:
    with Caller.open(bob, carol) as caller:
        caller.connection.send_raw(kind, header, len(body))
        try:
            caller.connection.send_body(memoryview(body))
            answered, refusal, _ = caller.receive()
        except ConnectionLostError:
            assert len(body) > MIB  # refused, and cut off, while it was still being sent
        else:
            assert (answered, refusal.code) == (Kind.REFUSAL, "protocol")


def test_no_frame_at_all_is_refused(bob: NodeProcess, carol: Identity) -> None:
    with Caller.open(bob, carol) as caller:
        prefix = bytearray(pack_prefix(Kind.BATCH, header_bytes=1))
        prefix[4] = 9
        caller.connection._write(bytes(prefix) + b"\x90")
        kind, refusal, _ = caller.receive()
        assert (kind, refusal.code) == (Kind.REFUSAL, "protocol")
        assert "version 9" in refusal.text


def test_another_table_of_operations_is_refused(bob: NodeProcess, carol: Identity) -> None:
    connection = dial(bob.address, identity=carol, peer=bob.fingerprint)
    with pytest.raises(VersionError, match="table of operations"):
        greet(connection, purpose="session", software="tests", table=bytes(32), wait_s=PATIENCE_S)


def test_a_researcher_may_not_push(bob: NodeProcess, carol: Identity) -> None:
    connection = dial(bob.address, identity=carol, peer=bob.fingerprint)
    with pytest.raises(PeerRefusedError, match="may not push"):
        greet(connection, purpose="push", software="tests", wait_s=PATIENCE_S)


def test_a_caller_is_told_that_an_executor_has_to_be_started(tmp_path: Path, carol: Identity) -> None:
    """Otherwise it gives up long before the node does, where starting one takes a cold machine a minute."""
    with node(tmp_path, researchers=[carol], session="spare_executors = 0") as running:
        connection = dial(running.address, identity=carol, peer=running.fingerprint, within_s=PATIENCE_S)
        connection.send(Kind.HELLO, Hello((1,), "session", "tests", optable.digest()))
        frame = connection.receive(wait_s=PATIENCE_S)
        assert frame.kind is Kind.WAIT
        assert frame.message().seconds > 120
        assert connection.receive(wait_s=PATIENCE_S).kind is Kind.WELCOME
        connection.close()


@pytest.mark.slow
def test_sigterm_answers_what_is_asked_and_exits_0(tmp_path: Path, carol: Identity) -> None:
    with node(tmp_path, researchers=[carol], session="spare_executors = 0") as running:
        idle = Caller.open(running, carol)
        busy = Caller.open(running, carol)
        with idle, busy:
            os.kill(busy.executor, signal.SIGSTOP)
            busy.post(m.Count())
            running.process.send_signal(signal.SIGTERM)
            kind, refusal, _ = idle.receive()
            assert (kind, refusal.code) == (Kind.REFUSAL, "closing")
            os.kill(busy.executor, signal.SIGCONT)
            assert busy.receive()[0] is Kind.ANSWER
            kind, refusal, _ = busy.receive()
            assert (kind, refusal.code) == (Kind.REFUSAL, "closing")
            assert running.process.wait(PATIENCE_S) == 0
            assert gone(busy.executor)


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, carol: Identity) -> None:
    with node(tmp_path, researchers=[carol]) as running, Caller.open(running, carol) as caller:
        pids = running.executors() | {caller.executor}
        os.killpg(running.pid, signal.SIGINT)
        assert running.process.wait(PATIENCE_S) == 0
        assert all(gone(pid) for pid in pids)


def test_a_second_signal_ends_it_at_once(tmp_path: Path, carol: Identity) -> None:
    limits = 'grace = "1 h"\nspare_executors = 0'
    with node(tmp_path, researchers=[carol], session=limits) as running, Caller.open(running, carol) as caller:
        os.kill(caller.executor, signal.SIGSTOP)
        caller.post(m.Count())
        running.process.send_signal(signal.SIGINT)
        while "closing" not in running.log.read_text():
            os.sched_yield()
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(PATIENCE_S) == 128 + signal.SIGINT
        assert gone(caller.executor)


def test_a_killed_listener_leaves_no_executor(tmp_path: Path, carol: Identity) -> None:
    with node(tmp_path, researchers=[carol]) as running, Caller.open(running, carol) as caller:
        os.kill(caller.executor, signal.SIGSTOP)  # one that could not notice by itself
        pids = running.executors() | {caller.executor}
        running.process.kill()
        assert all(gone(pid) for pid in pids)
        with pytest.raises(CloisterError):
            caller.count()


@pytest.fixture(scope="module")
def pushing(tmp_path_factory: pytest.TempPathFactory, carol: Identity) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    """Two nodes; the first may push to the second."""
    folder = tmp_path_factory.mktemp("two")
    bob, alice = (Identity.create(folder / f"{name}.key") for name in ("bob", "alice"))
    limits = 'spare_executors = 0\nmove_wait = "20 s"\ngrace = "20 s"'
    entry = '[[workers]]\nname = "{}"\nfingerprint = "{}"\n'
    knows_bob = entry.format("bob", bob.fingerprint)
    with node(folder, name="alice", identity=alice, researchers=[carol], session=limits, more=knows_bob) as second:
        knows_alice = entry.format("alice", alice.fingerprint) + f'address = "{second.address}"\n'
        with node(folder, name="bob", identity=bob, researchers=[carol], session=limits, more=knows_alice) as first:
            yield first, second


@pytest.mark.slow
def test_values_move_from_node_to_node(pushing: tuple[NodeProcess, NodeProcess], carol: Identity) -> None:
    first, second = pushing
    data, ticket = os.urandom(3 * MIB), os.urandom(32)
    spec = TensorSpec("uint8", (len(data),))
    with Caller.open(first, carol) as one, Caller.open(second, carol) as two:
        one.put(1, data)
        one.batch(m.Push((1,), second.fingerprint, ticket, 0), m.Free((1,)))
        two.batch(m.Take((5,), (spec,), first.fingerprint, ticket, 0))
        assert two.fetch(5) == data
        assert one.count() == 0
        # The other way there is no address; the session there stays usable.
        two.batch(m.Push((5,), first.fingerprint, bytes(32), 0))
        kind, failure, _ = two.ask(m.Count())
        assert (kind, failure.code) == (Kind.FAILURE, "move")
        assert "no address" in failure.text
        assert two.count() == 1
        # A push under way is finished when its caller leaves.
        ticket = os.urandom(32)
        one.put(2, data[::-1])
        one.batch(m.Push((2,), second.fingerprint, ticket, 0))
        one.connection.close()
        two.batch(m.Take((6,), (spec,), first.fingerprint, ticket, 0))
        assert two.fetch(6) == data[::-1]
