"""The aggregator of a charter that is closed to interactive use: it can be verified, and that is all."""

from __future__ import annotations

import threading

import pytest

from cloister.enclave.service import Aggregator
from cloister.errors import ConfigurationError, ConnectionLostError, PeerRefusedError, UnreachableError
from cloister.net.greeting import greet
from cloister.net.identity import Identity
from cloister.wire.address import Address
from tests.net.instances import Study, serving
from tests.net.parties import SOON


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


def test_it_proves_itself_to_everyone(study: Study) -> None:
    with study.aggregator() as running:
        for identity in (study.alice, study.bob, study.carol, study.dave):
            with study.examine(running.at, identity=identity) as proven:
                assert proven.connection.peer == running.instance.fingerprint


def test_members_are_told_that_there_is_no_more(study: Study) -> None:
    with study.aggregator() as running:
        for identity, purpose in ((study.carol, "session"), (study.bob, "push")):
            proven = study.examine(running.at, identity=identity)
            with pytest.raises(PeerRefusedError, match="closed to interactive use"):
                greet(proven.connection, purpose=purpose, software="test", wait_s=SOON)  # type: ignore[arg-type]


def test_it_shows_the_key_of_its_instance(study: Study) -> None:
    instance = study.instance()
    aggregator = Aggregator(instance, charter=study.charter, listen=Address("127.0.0.1", 0))
    with serving(aggregator):
        assert aggregator.fingerprint == instance.fingerprint
        assert aggregator.address.port != 0


def test_it_says_when_it_serves(study: Study) -> None:
    aggregator = Aggregator(study.instance(), charter=study.charter, listen=Address("127.0.0.1", 0))
    ready = threading.Event()
    thread = threading.Thread(target=aggregator.serve, kwargs={"ready": ready.set})
    thread.start()
    assert ready.wait(SOON)
    study.examine(str(aggregator.address)).close()
    aggregator.stop()
    thread.join(SOON)
    assert not thread.is_alive()


def test_a_stop_before_it_serves_is_a_stop(study: Study) -> None:
    """A signal may come between the two."""
    aggregator = Aggregator(study.instance(), charter=study.charter, listen=Address("127.0.0.1", 0))
    aggregator.stop()
    aggregator.serve()


def test_when_it_stops_its_connections_end(study: Study) -> None:
    with study.aggregator() as running:
        proven = study.examine(running.at)
    with pytest.raises(ConnectionLostError):
        proven.again()
    with pytest.raises(UnreachableError):
        study.examine(running.at)


def test_an_address_that_is_taken(study: Study) -> None:
    with study.aggregator() as running, pytest.raises(ConfigurationError, match="cannot listen"):
        Aggregator(study.instance(), charter=study.charter, listen=Address("127.0.0.1", running.port))


def test_many_members_at_once(study: Study) -> None:
    found: list[bytes] = []

    def verify(identity: Identity) -> None:
        with study.examine(running.at, identity=identity) as proven:
            found.append(proven.again().transcript.instance)

    with study.aggregator() as running:
        threads = [threading.Thread(target=verify, args=(each,)) for each in [study.alice, study.bob, study.carol] * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SOON)
    assert len(found) == 9
    assert len(set(found)) == 1
