"""Attack: make a certificate and pass for a member at the aggregator, or for the aggregator before a member.

An aggregator lets anyone ask, with any certificate or none, so more certificates reach it than reach a node. A member
is a key all the same, and no member's certificate is an issuer.
"""

from __future__ import annotations

import pytest

from cloister.attest.transcript import Transcript
from cloister.errors import NetworkError, PeerRefusedError, UnacceptableError
from cloister.net.certificates import spki_hash
from cloister.net.contexts import server_context
from cloister.net.handshake_client import greet
from cloister.net.identity import Identity
from cloister.wire.frames import Kind
from tests.attacks.test_minted_certificates import (
    certified_by_a_member,
    certified_by_a_namesake,
    certified_by_an_issuer_of_ones_own,
    certified_by_the_public_issuer,
    with_the_victims_certificate_behind,
)
from tests.support.attested import Study, claiming, listening, overheard, until_closed
from tests.support.tls import SOON


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


CHAINS = [certified_by_a_member, certified_by_an_issuer_of_ones_own, certified_by_a_namesake]
STRANGERS = [certified_by_the_public_issuer, with_the_victims_certificate_behind]


@pytest.mark.slow
@pytest.mark.parametrize("make", CHAINS)
def test_a_chain_is_not_let_in(make, study: Study, tmp_path) -> None:
    minted: Identity = make(tmp_path, study.carol)
    with study.secure_worker() as running:
        with pytest.raises(NetworkError):
            overheard(running.at, study.charter, identity=minted)
        study.attest(running.at).close()


@pytest.mark.parametrize("make", STRANGERS)
def test_a_valid_certificate_of_ones_own_makes_a_stranger(make, study: Study, tmp_path) -> None:
    """It may ask, as anyone. The transcript names its own key, and its hello is refused."""
    minted: Identity = make(tmp_path, study.carol)
    with study.secure_worker() as running, study.attest(running.at, identity=minted) as attested:
        assert attested.transcript.client == spki_hash(minted.fingerprint)
        assert attested.transcript.client != spki_hash(study.carol.fingerprint)
        with pytest.raises(PeerRefusedError, match="may not open sessions"):
            greet(attested.connection, purpose="session", software="test", wait_s=SOON)


@pytest.mark.slow
@pytest.mark.parametrize("make", [*CHAINS, *STRANGERS])
def test_a_minted_aggregator_proves_nothing_by_its_certificate(make, study: Study, tmp_path) -> None:
    """A member checks no certificate of an aggregator's, since any would do: it checks that the evidence is about the
    key. Here the certificate says what it likes, and the proof is a genuine aggregator's."""
    minted: Identity = make(tmp_path, study.bob)
    genuine = study.instance()
    told: list[Transcript] = []

    def pose(connection) -> None:
        challenge = connection.receive(wait_s=SOON).message()
        proof = claiming(genuine)(challenge, connection)
        told.append(Transcript.decode(proof.transcript))
        connection.send(Kind.PROOF, proof)
        until_closed(connection)

    with listening(pose, server_context(minted)) as at, pytest.raises(UnacceptableError) as caught:
        study.attest(at)
    assert caught.value.failures == (
        "its proof is about another TLS key than this connection's: somebody stands in between",
    )
    assert told[0].server == spki_hash(genuine.fingerprint)
