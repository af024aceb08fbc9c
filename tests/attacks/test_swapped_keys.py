"""Attack: leave the evidence as it is and put one's own key into the transcript beside it.

With the HPKE key an attacker would read what is provisioned, with the signing key write the ledger, with the TLS key
stand in the middle. The evidence is about the hash of the whole transcript.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cloister.attest.hpke import seal
from cloister.attest.transcript import Transcript
from cloister.attest.verifier import STALE
from cloister.errors import NotGenuineError, UnacceptableError
from cloister.net.certificates import spki_hash
from cloister.net.connection import Connection
from cloister.net.secrets import provision_info
from cloister.wire.messages import Challenge, Proof
from tests.support.attested import Study, answering, ask, dial


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


def own_keys(study: Study) -> tuple[Any, dict[str, dict[str, bytes]]]:
    attacker = study.provisioned()
    told = attacker.transcript(bytes(32), client=None)
    keys = {"hpke": told.hpke_key, "signing": told.signing_key, "tls": told.server}
    fields = {"hpke": "hpke_key", "signing": "signing_key", "tls": "server"}
    return attacker, {name: {fields[name]: key} for name, key in keys.items()}


@pytest.mark.slow
@pytest.mark.parametrize("swapped", [("hpke",), ("signing",), ("tls",), ("hpke", "signing", "tls")])
def test_a_proof_with_an_attackers_key_is_refused(study: Study, swapped: tuple[str, ...]) -> None:
    """The attacker in the middle fetches a proof for the member's own challenge and changes one thing in it."""
    attacker, keys = own_keys(study)
    changes: dict[str, Any] = {}
    for name in swapped:
        changes |= keys[name]
    with study.aggregator() as running:

        def swap(challenge: Challenge, connection: Connection) -> Proof:
            upstream = dial(running.at)
            genuine = ask(upstream, study.charter, nonce=challenge.nonce)
            upstream.close()
            assert study.convinced_by(genuine)
            transcript = replace(
                Transcript.decode(genuine.transcript), client=spki_hash(study.bob.fingerprint), **changes
            )
            return Proof(transcript=transcript.encode(), evidence=genuine.evidence)

        with answering(attacker, swap) as at, pytest.raises(UnacceptableError) as caught:
            study.attest(at)
    [failure] = caught.value.failures
    assert (STALE if "tls" in swapped else "another TLS key than this connection's") in failure


def test_what_a_swapped_key_would_open(study: Study) -> None:
    """Why it matters: a secret that is sealed to the key in the transcript is the key's owner's to read."""
    attacker, genuine = study.provisioned(), study.provisioned()
    transcript = replace(
        genuine.transcript(bytes(32), client=None), hpke_key=attacker.transcript(bytes(32), client=None).hpke_key
    )
    info = provision_info(transcript.report_data(), "data")
    sealed = seal(b"the key of the data set", public_key=transcript.hpke_key, info=info)
    assert attacker.unseal(sealed, info=info) == b"the key of the data set"
    with pytest.raises(NotGenuineError):
        genuine.unseal(sealed, info=info)
