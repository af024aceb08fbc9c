"""Attack: let an instance prove itself, and then have something else go on with its connection.

A live connection is attested again, and then answered with the earlier proof, by another instance, or by the same one
under another state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from cloister.attest.attester.simulated import SimulatedAttester
from cloister.errors import ConnectionLostError, UnacceptableError
from cloister.net.attested import AttestedConnection
from cloister.net.certificates import spki_hash
from cloister.net.connection import Connection
from cloister.net.proving import Instance
from cloister.wire.messages import Challenge, Proof
from tests.support.attested import ATTESTER, MEASUREMENT, Study, answering, claiming

ANOTHER = "it is not the instance that proved itself on this connection before"
OLD = "its proof answers another challenge than ours: old evidence, played again"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


Answer = Callable[[Challenge, Connection], Proof]


@contextmanager
def changing(study: Study, instance: Instance, then: Answer) -> Iterator[AttestedConnection]:
    """A member's live connection to an instance that has proved itself; ``then`` answers the next challenge."""
    answers = [claiming(instance), then]
    given: list[Proof] = []

    def answer(challenge: Challenge, connection: Connection) -> Proof:
        given.append(answers[len(given)](challenge, connection))
        return given[-1]

    with answering(instance, answer, times=2) as at, study.attest(at) as attested:
        yield attested


def refusal(attested: AttestedConnection) -> tuple[str, ...]:
    with pytest.raises(UnacceptableError) as caught:
        attested.attest()
    with pytest.raises(ConnectionLostError):  # it was closed: nothing more is said to whatever is there now
        attested.challenge()
    return caught.value.failures


def test_the_same_instance_goes_on(study: Study) -> None:
    instance = study.instance()
    with changing(study, instance, claiming(instance)) as attested:
        assert attested.attest().transcript.instance == attested.transcript.instance


def test_the_earlier_proof_again(study: Study) -> None:
    instance = study.instance()
    given: list[Proof] = []

    def repeat(challenge: Challenge, connection: Connection) -> Proof:
        given.append(given[0] if given else claiming(instance)(challenge, connection))
        return given[-1]

    with answering(instance, repeat, times=2) as at, study.attest(at) as attested:
        assert refusal(attested) == (OLD,)
    assert len(given) == 2


def test_another_instance_in_its_place(study: Study) -> None:
    """Of the same software under the same charter, and reached over the same TLS key as if that could be handed on."""
    first, second = study.instance(), study.instance()
    taken_over = claiming(second, server=spki_hash(first.fingerprint))
    with changing(study, first, taken_over) as attested:
        assert refusal(attested) == (ANOTHER,)


@pytest.mark.parametrize("field", ["hpke_key", "signing_key", "instance"])
def test_an_instance_with_another_key_than_before(study: Study, field: str) -> None:
    first, second = study.instance(), study.provisioned()
    other = getattr(second.transcript(bytes(32), client=None), field)
    with changing(study, first, claiming(first, **{field: other})) as attested:
        assert refusal(attested) == (ANOTHER,)


def test_other_software_in_its_place(study: Study) -> None:
    first = study.instance()

    def tampered(challenge: Challenge, connection: Connection) -> Proof:
        transcript = first.transcript(challenge.nonce, client=spki_hash(connection.peer))
        return second.prove(transcript)

    second = study.instance(attester=replace(ATTESTER, measurement=bytes(48)))
    with changing(study, first, tampered) as attested:
        (failure,) = refusal(attested)
    assert "measurement is 0000" in failure


def test_a_debugger_that_comes_later(study: Study) -> None:
    first = study.instance()
    debugged = study.instance(attester=SimulatedAttester(measurement=MEASUREMENT, platform=bytes(32), debug=True))

    def answer(challenge: Challenge, connection: Connection) -> Proof:
        return debugged.prove(first.transcript(challenge.nonce, client=spki_hash(connection.peer)))

    with changing(study, first, answer) as attested:
        (failure,) = refusal(attested)
    assert "debug" in failure


def test_a_ledger_that_was_shortened_meanwhile(study: Study) -> None:
    records = [(b"\x05" * 32, 5)]
    instance = study.instance(ledger=lambda: records[-1])
    with changing(study, instance, claiming(instance)) as attested:
        records.append((b"\x04" * 32, 4))
        (failure,) = refusal(attested)
    assert "rolled back or forked" in failure
