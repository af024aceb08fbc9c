"""How a node finds the aggregator that a caller means: it dials the charter's addresses and believes proofs only."""

from __future__ import annotations

import logging
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.errors import MoveError
from cloister.net.certificates import spki_hash
from cloister.node.aggregators import Aggregators
from tests.support.attested import ADDRESS, ATTESTER, Study
from tests.support.tls import SOON

SECOND = "second.example:7443"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    found = Study(tmp_path_factory.mktemp("study"))
    found.charter = found.agree(addresses=[ADDRESS, SECOND])
    return found


@pytest.fixture(scope="module")
def nobody() -> Any:
    """An address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def bobs(study: Study, first: str, second: str, **demanded: Any) -> Aggregators:
    return Aggregators(study.policy(**demanded), identity=study.bob, routes={ADDRESS: first, SECOND: second})


def refusal(aggregators: Aggregators, peer: str) -> str:
    with pytest.raises(MoveError, match="nothing was sent") as caught:
        aggregators.dial(peer, within_s=SOON, send_s=SOON)
    return str(caught.value)


def test_the_aggregator_with_the_callers_key_is_found(study: Study) -> None:
    """Whichever of the charter's addresses it is at."""
    with study.aggregator() as one, study.aggregator(study.instance(name=SECOND)) as two:
        aggregators = bobs(study, one.at, two.at)
        for running in (one, two):
            connection = aggregators.dial(running.instance.fingerprint, within_s=SOON, send_s=SOON)
            assert connection.peer == running.instance.fingerprint
            connection.close()


def test_bob_shows_his_key(study: Study) -> None:
    """It is by his key that the aggregator lets him push, and by his key that its proof is his."""
    with study.aggregator() as running:
        aggregators = bobs(study, running.at, running.at)
        told: list[bytes | None] = []
        make = running.instance.transcript

        def noting(nonce: bytes, *, client: bytes | None) -> Any:
            told.append(client)
            return make(nonce, client=client)

        running.instance.transcript = noting  # type: ignore[method-assign]
        aggregators.dial(running.instance.fingerprint, within_s=SOON, send_s=SOON).close()
    assert set(told) == {spki_hash(study.bob.fingerprint)}


def test_one_that_is_away_does_not_hide_the_other(study: Study, nobody: str) -> None:
    with study.aggregator(study.instance(name=SECOND)) as running:
        bobs(study, nobody, running.at).dial(running.instance.fingerprint, within_s=SOON, send_s=SOON).close()


def test_one_that_is_refused_does_not_hide_the_other(study: Study) -> None:
    tampered = study.instance(attester=replace(ATTESTER, measurement=bytes(48)))
    with study.aggregator(tampered) as one, study.aggregator(study.instance(name=SECOND)) as two:
        bobs(study, one.at, two.at).dial(two.instance.fingerprint, within_s=SOON, send_s=SOON).close()


def test_every_address_is_in_the_refusal_with_its_reason(study: Study, nobody: str) -> None:
    with study.aggregator() as running:
        text = refusal(bobs(study, running.at, nobody), "sha256:" + "0" * 64)
    assert f"{ADDRESS}: it shows the key {running.instance.fingerprint}, not sha256:0000" in text
    assert f"{SECOND}: " in text


def test_what_is_not_acceptable_is_not_pushed_to_even_by_its_key(study: Study, caplog: Any, nobody: str) -> None:
    tampered = study.instance(attester=replace(ATTESTER, measurement=b"\x40" * 48))
    with study.aggregator(tampered) as running, caplog.at_level(logging.INFO, logger="cloister.node"):
        text = refusal(bobs(study, running.at, nobody), tampered.fingerprint)
    assert "measurement is 4040" in text
    (record,) = [record for record in caplog.records if record.name == "cloister.node.aggregators"]
    assert record.levelno == logging.WARNING
    assert f"refused the aggregator at {ADDRESS}" in record.getMessage()


def test_a_simulated_one_is_accepted_only_if_the_node_says_so(study: Study, nobody: str) -> None:
    with study.aggregator() as running:
        text = refusal(bobs(study, running.at, nobody, accept_simulated=False), running.instance.fingerprint)
    assert "a simulated TEE proves nothing" in text


def test_the_verdict_on_an_instance_is_logged_once(study: Study, caplog: Any, nobody: str) -> None:
    with caplog.at_level(logging.INFO, logger="cloister.node.aggregators"):
        with study.aggregator() as running:
            aggregators = bobs(study, running.at, nobody)
            for _ in range(3):
                aggregators.dial(running.instance.fingerprint, within_s=SOON, send_s=SOON).close()
        with study.aggregator(port=running.port) as again:
            aggregators.dial(again.instance.fingerprint, within_s=SOON, send_s=SOON).close()
    lines = [record.getMessage() for record in caplog.records if record.name == "cloister.node.aggregators"]
    assert len(lines) == 2  # another instance is another verdict
    assert all(line.startswith(f"the aggregator at {ADDRESS} is verified: ") for line in lines)


def test_without_a_route_the_charters_address_is_dialled(tmp_path: Path) -> None:
    study = Study(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    study.charter = study.agree(addresses=[address])
    instance = study.instance(name=address)
    with study.aggregator(instance, port=int(address.rpartition(":")[2])):
        aggregators = Aggregators(study.policy(), identity=study.bob)
        aggregators.dial(instance.fingerprint, within_s=SOON, send_s=SOON).close()
