"""A researcher keeps a node busy for ever: by one call, by many, by doing nothing, by many sessions, by crashing."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloister.cli.node import app
from cloister.errors import PutOffError, UnreachableError
from cloister.net.identity import Identity
from cloister.node.crashes import FREE
from cloister.wire import sessions as m
from cloister.wire.frames import Kind
from cloister.wire.tensors import TensorSpec
from tests.node.processes import Caller, NodeProcess, closed, gone, node

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
LIMITS = 'memory = "64 MiB"\nmax_sessions = 4\nsessions_per_researcher = 2\ngrace = "2 s"\nthreads = 1\n'


@pytest.fixture(scope="module")
def carol(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity.create(tmp_path_factory.mktemp("carol") / "carol.key")


@pytest.fixture(scope="module")
def dave(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity.create(tmp_path_factory.mktemp("dave") / "dave.key")


@pytest.fixture(scope="module")
def bob(tmp_path_factory: pytest.TempPathFactory, carol: Identity, dave: Identity) -> Iterator[NodeProcess]:
    limits = LIMITS + 'call_cpu = "1 s"\nsession_cpu = "1 h"'
    with node(tmp_path_factory.mktemp("bob"), researchers=[carol, dave], session=limits) as running:
        yield running


def endless(caller: Caller) -> None:
    """An operation that no guard can know: the sum of one number's view of 2^40 elements, which takes no memory."""
    caller.batch(m.Call("aten::ones", [[1]], {}, (2,), None, 0))
    caller.batch(m.Call("aten::expand", [2, [1 << 40]], {}, (3,), None, 0))
    caller.batch(m.Call("aten::sum", [3], {}, (4,), None, 9))


def test_a_call_without_an_end_is_ended_and_its_caller_told(bob: NodeProcess, carol: Identity, dave: Identity) -> None:
    with Caller.open(bob, carol) as caller, Caller.open(bob, dave) as other:
        other.put(1, b"here")
        endless(caller)
        kind, failure, _ = caller.ask(m.Count())
        assert (kind, failure.code) == (Kind.FAILURE, "cpu"), failure
        assert "aten::sum" in failure.text
        assert "call_cpu" in failure.text
        kind, refusal, _ = caller.receive()
        assert (kind, refusal.code) == (Kind.REFUSAL, "cpu")
        assert gone(caller.executor)
        assert other.fetch(1) == b"here"
    assert f"executor {caller.executor} at aten::sum" in bob.log.read_text()


def test_many_calls_without_an_end_are_ended_together(tmp_path: Path, carol: Identity) -> None:
    """Each call is short, and there is always one more. Idle time is none: the caller has sent all of them."""
    limits = LIMITS + 'spare_executors = 0\ncall_cpu = "1 h"\nsession_cpu = "2 s"'
    with node(tmp_path, researchers=[carol], session=limits) as running, Caller.open(running, carol) as caller:
        caller.batch(m.Put(1, TensorSpec("float32", (512, 512))), bodies=[bytes(4 << 18)])
        products = [m.Call("aten::mm", [1, 1], {}, (2 + at,), None, 0) for at in range(2000)]
        for _ in range(8):
            caller.batch(*(each for product in products for each in (product, m.Free(product.outs))))
        kind, failure, _ = caller.ask(m.Count())
        assert (kind, failure.code) == (Kind.FAILURE, "cpu"), failure
        assert "session_cpu" in failure.text


def test_a_session_of_which_nothing_is_asked_is_ended_and_says_so_at_its_next_use(
    tmp_path: Path, carol: Identity
) -> None:
    limits = LIMITS + 'spare_executors = 0\nidle = "100 ms"'
    with node(tmp_path, researchers=[carol], session=limits) as running, Caller.open(running, carol) as caller:
        assert gone(caller.executor)
        caller.put(1, b"x")
        kind, failure, _ = caller.ask(m.Count())
        assert (kind, failure.code) == (Kind.FAILURE, "ended")
        assert "idle" in failure.text
        assert (caller.receive()[1].code, closed(caller.connection)) == ("ended", True)
        assert "crash" not in running.log.read_text()  # that is none, and has no consequences


def test_one_researcher_leaves_places_to_others(bob: NodeProcess, carol: Identity, dave: Identity) -> None:
    with Caller.open(bob, carol), Caller.open(bob, carol) as second:
        with pytest.raises(UnreachableError, match="sessions_per_researcher"):
            Caller.open(bob, carol)
        with Caller.open(bob, dave) as other:
            assert other.count() == 0
        second.connection.close()
        assert gone(second.executor)
        with Caller.open(bob, carol) as again:
            assert again.count() == 0


def test_an_owner_sees_who_does_what_and_ends_it(bob: NodeProcess, carol: Identity, dave: Identity) -> None:
    file = str(bob.log.with_suffix(".toml"))
    with Caller.open(bob, carol) as caller, Caller.open(bob, dave) as other:
        caller.put(1, b"four")
        caller.batch(m.Call("aten::add.Tensor", [1, 1], {"alpha": 1}, (2,), None, 0))
        assert caller.count() == 2
        done = CliRunner().invoke(app, ["sessions", file, "--json"])
        assert done.exit_code == 0, done.output
        ours, theirs = json.loads(done.stdout)[-2:]  # others may be ending
        assert (ours["researcher"], ours["fingerprint"]) == ("researcher0", carol.fingerprint)
        assert (ours["objects"], ours["nbytes"]) == (2, 8)
        assert ours["cpu_s"] > 0
        assert (ours["last"], theirs["last"]) == ("count", "")
        assert (theirs["researcher"], theirs["objects"]) == ("researcher1", 0)
        shown = CliRunner().invoke(app, ["sessions", file])
        assert dave.fingerprint[:11] in "".join(shown.stdout.split()), shown.stdout
        assert CliRunner().invoke(app, ["sessions", file, "--end", "4711"]).exit_code == 2
        done = CliRunner().invoke(app, ["sessions", file, "--end", str(ours["number"])])
        assert done.exit_code == 0, done.output
        assert gone(caller.executor)
        kind, failure, _ = caller.ask(m.Count())
        assert (kind, failure.code) == (Kind.FAILURE, "ended")
        assert "owner" in failure.text
        assert other.count() == 0


def test_who_crashes_executors_again_and_again_is_put_off(tmp_path: Path, carol: Identity, dave: Identity) -> None:
    with node(tmp_path, researchers=[carol, dave], session=LIMITS + "spare_executors = 2") as running:
        for _ in range(FREE + 1):
            with Caller.open(running, carol) as caller:
                os.kill(caller.executor, signal.SIGSEGV)
                assert caller.ask(m.Count())[1].code == "crashed"
        with pytest.raises(PutOffError) as caught:
            Caller.open(running, carol)
        assert 0 < caught.value.wait_s <= 10
        with Caller.open(running, dave) as other:
            assert other.count() == 0
        assert f"crash {FREE + 1} of researcher0, {FREE + 1} in all; put off for 10 s" in running.log.read_text()


def test_a_node_without_descriptors_says_that_it_is_busy(tmp_path: Path, carol: Identity) -> None:
    with node(tmp_path, researchers=[carol], session=LIMITS + "spare_executors = 0") as running:
        used = [int(name) for name in os.listdir(f"/proc/{running.pid}/fd")]
        _, hard = resource.prlimit(running.pid, resource.RLIMIT_NOFILE)
        # Room for the connection, and for a part of what an executor takes.
        resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (max(used) + 5, hard))
        with pytest.raises(UnreachableError, match="no more processes"):
            Caller.open(running, carol)
        resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (hard, hard))
        with Caller.open(running, carol) as caller:
            assert caller.count() == 0
