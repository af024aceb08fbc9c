"""Attack: stand in the middle, with a TLS key of one's own, and pass a genuine aggregator's proof on.

The evidence is genuine, fresh, and about the member's own challenge. It is about the aggregator's TLS key as well, and
that is not the key of the connection that the member has.
"""

from __future__ import annotations

import pytest

from cloister.errors import UnacceptableError
from cloister.net.attested import attest_peer
from cloister.net.certificates import spki_hash
from cloister.wire.frames import Kind
from tests.support.attested import ADDRESS, Middle, Study

BETWEEN = "its proof is about another TLS key than this connection's: somebody stands in between"
OTHER_CLIENT = "its proof is about another client's connection: somebody stands in between"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


def test_a_relayed_proof_is_refused(study: Study) -> None:
    with study.aggregator() as running:
        middle = Middle(running.at)
        with middle.standing() as at, pytest.raises(UnacceptableError) as caught:
            study.attest(at)
        assert caught.value.failures == (BETWEEN, OTHER_CLIENT)
        # What passed by would satisfy whoever looks at the evidence alone, and it is not even old.
        challenge, proof = (frame.message() for frame in middle.frames)
        assert study.convinced_by(proof).claims.tee == "simulated"
        assert challenge.nonce in proof.transcript
        # And nothing else passed by.
        assert [frame.kind for frame in middle.frames] == [Kind.CHALLENGE, Kind.PROOF]


def test_one_in_the_middle_who_is_a_member_gets_no_further(study: Study) -> None:
    with study.aggregator() as running:
        middle = Middle(running.at, identity=study.carol)
        with middle.standing() as at, pytest.raises(UnacceptableError) as caught:
            study.attest(at)
        assert caught.value.failures == (BETWEEN, OTHER_CLIENT)
        assert spki_hash(study.carol.fingerprint) in middle.frames[1].message().transcript


def test_a_verifier_without_a_key_is_protected_by_the_aggregators_alone(study: Study) -> None:
    """An auditor shows no certificate, and neither does the one in the middle: that much fits."""
    with (
        study.aggregator() as running,
        Middle(running.at).standing() as at,
        pytest.raises(UnacceptableError) as caught,
    ):
        attest_peer(ADDRESS, policy=study.policy(), at=at)
    assert caught.value.failures == (BETWEEN,)


def test_each_end_sees_who_is_in_between(study: Study) -> None:
    """The aggregator, too, tells clients apart by the keys that they prove: the one in between has no member's."""
    with study.aggregator() as running:
        middle = Middle(running.at)
        with middle.standing() as at, pytest.raises(UnacceptableError):
            study.attest(at)
        assert spki_hash(study.bob.fingerprint) not in middle.frames[1].message().transcript
        with study.attest(running.at) as attested:
            assert attested.transcript.server == spki_hash(running.instance.fingerprint)
            assert attested.connection.peer != middle.fingerprint
