"""Attack: let an aggregator prove itself, then put another in its place, behind the same address and port.

Each push is preceded by a proof on its own connection, and a connection that was proved ends with its instance.
tests/e2e/test_attested.py does the same with processes.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from cloister.errors import CloisterError, ConnectionLostError, MoveError, UnacceptableError
from cloister.node.aggregators import Aggregators
from tests.support.attested import ADDRESS, ATTESTER, Study
from tests.support.tls import SOON


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


def test_tampered_software_in_the_place_of_the_proven(study: Study) -> None:
    with study.aggregator() as running:
        port, peer = running.port, running.instance.fingerprint
        aggregators = Aggregators(study.policy(), identity=study.bob, routes={ADDRESS: running.at})
        aggregators.dial(peer, within_s=SOON, send_s=SOON).close()
        attested = study.attest(running.at)
    with pytest.raises(ConnectionLostError):  # what was proved is gone, and so is its connection
        attested.attest()
    tampered = study.instance(attester=replace(ATTESTER, measurement=b"\x40" + b"\x3f" * 47))
    with study.aggregator(tampered, port=port) as there:
        for key in (peer, tampered.fingerprint):  # the researcher may name the old key, or have been told the new one
            with pytest.raises(MoveError, match="nothing was sent") as caught:
                aggregators.dial(key, within_s=SOON, send_s=SOON)
            assert "measurement is 403f3f" in str(caught.value)
        with pytest.raises(UnacceptableError, match="measurement is 403f3f"):
            study.attest(there.at)


def test_the_same_software_started_again_is_another_instance(study: Study) -> None:
    """It is acceptable, and it is not what the researcher's session is at: values go nowhere until that is renewed."""
    with study.aggregator() as running:
        port, peer = running.port, running.instance.fingerprint
    aggregators = Aggregators(study.policy(), identity=study.bob, routes={ADDRESS: running.at})
    with pytest.raises(MoveError, match="nothing was sent"):
        aggregators.dial(peer, within_s=SOON, send_s=SOON)
    with study.aggregator(port=port) as again:
        with pytest.raises(MoveError, match=f"it shows the key {again.instance.fingerprint}, not {peer}"):
            aggregators.dial(peer, within_s=SOON, send_s=SOON)
        aggregators.dial(again.instance.fingerprint, within_s=SOON, send_s=SOON).close()


def test_a_proven_connection_cannot_be_taken_over(study: Study) -> None:
    """Whatever answers at the address later, a connection is with the key that was proved on it, or with nobody."""
    with study.aggregator() as running:
        attested = study.attest(running.at)
        port = running.port
    with study.aggregator(port=port), pytest.raises(CloisterError) as caught:
        attested.attest()
    assert isinstance(caught.value, ConnectionLostError)
