"""Attack: lock the members out. A crowd of strangers from many addresses stands at the door, and comes back at once.

Whatever they do there, a member gets in. The listener bears with each of them for a minute here, so that it is not
their leaving that lets the member in; and the times are generous, since the crowd takes the machine's time as well.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloister.net.identity import Identity
from tests.attacks.crowd import KINDS, crowding
from tests.support.attested import Study
from tests.support.tls import SOON, hosting, make_identity, rest

LET_IN_S = 30.0
BORNE_S = 60.0
SOME, MANY = (3,), (2, 10, 100)
CROWDS = [(kind, sources) for kind in KINDS for sources in SOME]
CROWDS += [pytest.param(kind, sources, marks=pytest.mark.slow) for kind in KINDS for sources in MANY]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    return Study(tmp_path_factory.mktemp("study"))


def key(identity: Identity) -> Path:
    return Path(identity.path)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "sources"), CROWDS)
def test_a_known_peer_gets_in(study: Study, kind: str, sources: int) -> None:
    with (
        hosting(study.bob, study.carol, handshake_s=BORNE_S, silent_s=BORNE_S) as host,
        crowding(host.port, kind, sources=sources, key=key(study.dave)),
    ):
        for _ in range(3):
            host.session(study.carol, within_s=LET_IN_S)
    assert host.seen == [study.carol.fingerprint] * 3


@pytest.mark.slow
@pytest.mark.parametrize("worker", ["closed", "interactive"])
@pytest.mark.parametrize(("kind", "sources"), [*((kind, 100) for kind in KINDS), ("keys", 3)])
def test_a_member_has_its_aggregator_prove_itself(study: Study, worker: str, kind: str, sources: int) -> None:
    """Strangers may ask for proofs too, so they come further: those with a key sit down in the places for strangers."""
    with (
        study.aggregator() if worker == "closed" else study.secure_worker() as running,
        crowding(running.port, kind, sources=sources, key=key(study.dave)),
    ):
        for _ in range(3):
            study.attest(running.at, within_s=LET_IN_S).close()


def test_the_crowd_does_not_fill_the_log(study: Study, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with hosting(study.bob, study.carol) as host:
        for _ in range(200):
            with socket.create_connection(("127.0.0.1", host.port), timeout=SOON) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\n")
                assert rest(stranger) == b""
    told = [each for each in caplog.messages if "127.0.0.1" in each]
    assert len(told) == 6
    assert "195 more lines" in told[-1]


# Who looks like a crowd, and is none


@pytest.mark.slow
def test_a_hundred_members_come_back_at_once(study: Study, tmp_path: Path) -> None:
    members = [make_identity(tmp_path, f"member{number}") for number in range(100)]
    with hosting(study.bob, *members, handshake_s=BORNE_S) as host, ThreadPoolExecutor(len(members)) as pool:
        connections = list(pool.map(lambda member: host.session(member, within_s=BORNE_S), members))
        assert len(connections) == len(members)
    assert sorted(host.seen) == sorted(member.fingerprint for member in members)
