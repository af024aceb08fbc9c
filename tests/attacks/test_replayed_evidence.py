"""Attack: show evidence again that was genuine once.

The attacker has even the TLS key of the instance that made it, as after a break-in: what is old then is the nonce, and
a transcript with the new one is not what the evidence is about.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from cloister.attest.transcript import Transcript
from cloister.attest.verifier import STALE
from cloister.errors import UnacceptableError
from cloister.net.connection import Connection
from cloister.net.proving import Instance
from cloister.wire.messages import Challenge, Proof
from tests.support.attested import Study, answering, overheard

OLD = "its proof answers another challenge than ours: old evidence, played again"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def instance(study: Study) -> Instance:
    return study.instance()


@pytest.fixture(scope="module")
def old(study: Study, instance: Instance) -> Iterator[Proof]:
    """What the instance once proved to bob."""
    with study.aggregator(instance) as running:
        yield overheard(running.at, study.charter, identity=study.bob)


def test_what_is_old_would_pass_for_new(study: Study, old: Proof) -> None:
    assert study.convinced_by(old).claims.report_data == Transcript.decode(old.transcript).report_data()


def test_an_old_proof_is_refused(study: Study, instance: Instance, old: Proof) -> None:
    with answering(instance, lambda *_: old) as at, pytest.raises(UnacceptableError) as caught:
        study.attest(at)
    assert caught.value.failures == (OLD,)


def test_old_evidence_under_a_new_transcript_is_refused(study: Study, instance: Instance, old: Proof) -> None:
    def renew(challenge: Challenge, connection: Connection) -> Proof:
        transcript = replace(Transcript.decode(old.transcript), nonce=challenge.nonce)
        return Proof(transcript=transcript.encode(), evidence=old.evidence)

    with answering(instance, renew) as at, pytest.raises(UnacceptableError) as caught:
        study.attest(at)
    assert caught.value.failures == (STALE,)


def test_the_evidence_of_a_run_that_is_over_is_refused(study: Study, old: Proof) -> None:
    """The software was restarted, by its operator, who kept what the first run had proved."""
    with answering(study.instance(), lambda *_: old) as at, pytest.raises(UnacceptableError) as caught:
        study.attest(at)
    assert caught.value.failures == (
        OLD,
        "its proof is about another TLS key than this connection's: somebody stands in between",
    )


def test_no_challenge_is_asked_twice(study: Study, instance: Instance) -> None:
    asked: list[bytes] = []

    def note(challenge: Challenge, connection: Connection) -> Proof:
        asked.append(challenge.nonce)
        return Proof(transcript=b"", evidence=b"")

    for _ in range(5):
        with answering(instance, note) as at, pytest.raises(Exception, match="as a transcript"):
            study.attest(at)
    assert len(set(asked)) == 5
