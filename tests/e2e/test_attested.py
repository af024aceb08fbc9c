"""An aggregator that proves itself to its members, as processes: what is moved to it, and what is not, once it changes.

Nothing here is simulated but the TEE, which measures the package's files as they are.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from cloister.attest.reference import SimulatedEntry
from cloister.cli import main
from cloister.demo.tampering import tampered_copy
from cloister.errors import CharterError, ConfigurationError, MoveError, NetworkError, UnacceptableError
from cloister.net.attested import attest_peer
from cloister.net.client import RemoteWorker, connect
from cloister.net.policy import AttestationPolicy
from cloister.testing.federation import LocalFederation
from cloister.testing.processes import Service
from cloister.wire.sessions import Push
from tests.support.processes import descendants, running, wait_until

pytestmark = pytest.mark.e2e

ADDRESS = "aggregator.example:7443"
SESSION: dict[str, str | int] = {"memory": "128 MiB", "max_sessions": 2, "spare_executors": 1, "grace": "2 s"}
ANYTHING = SimulatedEntry(name="anything", measurement="any", min_svn=0, platforms="any")
"""The reference of somebody who does not care, or who is in league with the operator."""


class Study:
    """Alice and bob own data, and give it to an aggregator that has proved itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.members = LocalFederation(folder, ["alice", "bob"], session=SESSION, aggregator=ADDRESS)
        self.at = self.members.start_aggregator()
        self.members.start("alice", "bob")

    def verify(self, capsys: pytest.CaptureFixture[str], at: str, *options: str) -> tuple[int, str]:
        """What `cloister attest verify` exits with and prints."""
        words = ["attest", "verify", ADDRESS, "--charter", str(self.folder / "charter.toml"), "--at", at]
        with pytest.raises(SystemExit) as caught:
            main([*words, *options])
        return int(caught.value.code or 0), capsys.readouterr().out

    def credulous(self, at: str) -> RemoteWorker:
        """The researcher's session at whatever listens there, for a researcher who accepts anything."""
        policy = AttestationPolicy(charter=self.members.agreed, accept_simulated=True, reference=(ANYTHING,))
        return connect(ADDRESS, identity=self.members.researcher, policy=policy, at=at, connect_s=60.0, answer_s=60.0)

    def verdicts(self, name: str) -> list[str]:
        """The lines of a node's log that tell of an aggregator that has proved itself."""
        return [line for line in self.members.log(name).splitlines() if f"the aggregator at {ADDRESS} is " in line]


class Sessions(NamedTuple):
    """The researcher's."""

    alice: RemoteWorker
    bob: RemoteWorker
    aggregator: RemoteWorker


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    found = Study(tmp_path_factory.mktemp("study"))
    with found.members:
        yield found


@pytest.fixture(scope="module")
def tampered_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tampered_copy(tmp_path_factory.mktemp("tampered"))


@pytest.fixture(scope="module")
def sessions(study: Study) -> Iterator[Sessions]:
    """Opened once: each costs an executor that imports torch."""
    members = study.members
    with (
        members.connect("alice") as alice,
        members.connect("bob") as bob,
        members.connect_to_aggregator() as aggregator,
    ):
        yield Sessions(alice, bob, aggregator)


def test_owners_values_meet_at_the_proven_aggregator(study: Study, sessions: Sessions) -> None:
    alice, bob, aggregator = sessions
    total = torch.zeros(1000)
    for step in range(3):
        parts = [torch.full((1000,), step + 1.0).send(alice), torch.full((1000,), 10.0 * step).send(bob)]
        for part in parts:
            part.move(aggregator)
        total += (parts[0] + parts[1]).get()
    assert torch.equal(total, torch.full((1000,), 36.0))
    assert aggregator.attested is not None
    for name in ("alice", "bob"):
        (line,) = study.verdicts(name)  # one, though it verified three times
        assert line.endswith(aggregator.attested.verdict.line())


def test_a_live_session_is_attested_again_and_goes_on(sessions: Sessions) -> None:
    _, bob, aggregator = sessions
    first = aggregator.attested
    x = torch.arange(5.0).send(aggregator)
    later = aggregator.attest()
    assert first is not None
    assert later.transcript.nonce != first.transcript.nonce
    assert later.transcript.instance == first.transcript.instance
    assert aggregator.attested is later
    doubled = x * 2  # on its way, unanswered, when the next challenge comes
    aggregator.attest()
    assert torch.equal(doubled.get(), torch.arange(5.0) * 2)
    y = torch.ones(5).send(bob)
    y.move(aggregator)
    assert torch.equal((x + y).get(), torch.arange(5.0) + 1)
    with pytest.raises(ConfigurationError, match="known by its key"):
        bob.attest()


def test_everyone_can_verify_and_gets_an_exit_code(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    code, page = study.verify(capsys, study.at, "--accept-simulated")
    assert code == 0
    assert page.startswith("ACCEPTABLE AS A REHEARSAL")
    code, page = study.verify(capsys, study.at, "--accept-simulated", "--format", "json")
    told = json.loads(page)
    assert (code, told["verdict"]) == (0, "acceptable")
    assert told["charter"]["digest"] == study.members.agreed.digest.hex()
    code, page = study.verify(capsys, study.at)
    assert code == 4
    assert "a simulated TEE proves nothing" in " ".join(page.split())


def test_an_auditor_needs_no_key(study: Study) -> None:
    with attest_peer(ADDRESS, policy=study.members.policy(), at=study.at) as attested:
        assert attested.transcript.client is None


def test_an_aggregator_of_another_charter_is_refused(study: Study, tmp_path: Path) -> None:
    """The same software, the same address, other members: the operator's own."""
    with (
        LocalFederation(
            tmp_path, ["mallory", "trudy"], session=SESSION, aggregator=ADDRESS, interactive=False
        ) as others,
        pytest.raises(CharterError, match="another charter"),
    ):
        study.members.connect_to_aggregator(at=others.start_aggregator())


# The last ones: they end the aggregator.


def replacement(study: Study, package: Path) -> Service:
    """A tampered aggregator at the address of the true one, which is killed."""
    true = study.members._services["aggregator"]
    true.process.kill()
    true.process.wait()
    arguments = ["aggregator", "serve", "--charter", str(study.folder / "charter.toml"), "--tee", "simulated"]
    arguments += ["--listen", study.at, "--memory", "128 MiB"]
    environment = {"PYTHONPATH": str(package)}
    return Service(arguments, log=study.folder / "replacement.log", environment=environment)


def pushed_to(fingerprint: str, tensor: torch.Tensor) -> Push:
    """What a node is told that has to give up values: by a researcher who leaves out every other step."""
    return Push((tensor.remote.id,), fingerprint, secrets.token_bytes(32), 0)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_an_aggregator_that_is_replaced_after_its_proof(
    study: Study, sessions: Sessions, tampered_package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, bob, session = sessions
    x = torch.ones(1000).send(bob)
    session.count()
    service = replacement(study, tampered_package)
    try:
        with pytest.raises(NetworkError):  # a session is with what was proved, or with nobody
            session.count()
        with pytest.raises(NetworkError):
            session.attest()
        at, key = service.ready()
        assert at == study.at
        with pytest.raises(UnacceptableError, match="measurement is"):
            study.members.connect_to_aggregator()
        code, page = study.verify(capsys, at, "--accept-simulated", "--format", "json")
        (failure,) = json.loads(page)["failures"]
        assert code == 4
        assert "measurement is" in failure
        with study.credulous(at) as accomplice:
            for fingerprint in (key, session.fingerprint):
                bob.post(pushed_to(fingerprint, x))
                with pytest.raises(MoveError, match="nothing was sent") as caught:
                    bob.count()
                assert "measurement is" in str(caught.value)
            # As an honest script does it. The accomplice's session is not told to wait for what will not come.
            with pytest.raises(MoveError, match="nothing was sent"):
                x.move(accomplice)  # type: ignore[attr-defined]
            assert accomplice.count().objects == 0
        assert f"refused the aggregator at {ADDRESS}" in study.members.log("bob")
        assert torch.equal(x.get(), torch.ones(1000))  # still bob's, and the session there goes on
        assert len(study.verdicts("bob")) == 1
        pids = {service.process.pid} | descendants(service.process.pid)
        assert len(pids) > 1
        service.ask_to_end()
        assert service.process.wait(20) == 0
        assert wait_until(lambda: not running(pids), within_s=20)
    finally:
        service.end()


def test_nobody_there(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    code, page = study.verify(capsys, study.at, "--accept-simulated")
    assert code == 3
    assert page.startswith("NOT ACCEPTABLE, UNDECIDED")
