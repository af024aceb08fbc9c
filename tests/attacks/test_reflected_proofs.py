"""Attack: show a member a proof of its own side, or of another's node, in the place of the aggregator's.

Where a node's software stands in the same reference, its evidence is as acceptable as the aggregator's. It says that it
is a node's.
"""

from __future__ import annotations

import pytest

from cloister.errors import UnacceptableError
from cloister.net.certificates import spki_hash
from cloister.net.connection import Connection
from cloister.net.proving import Instance
from cloister.wire.messages import Challenge, Proof
from tests.support.attested import Study, answering, claiming

A_NODE = "it says that it is a 'node', and a 'aggregator' was dialled"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


@pytest.fixture
def node(study: Study) -> Instance:
    """Bob's own node, in a TEE somewhere, with software that the charter accepts."""
    return study.instance(role="node", name="bob.example:7443", configuration=b"\x0f" * 32)


def test_a_members_own_proof_is_not_an_aggregators(study: Study, node: Instance) -> None:
    """The attacker carries bob's challenge to bob's own node, and its answer back to bob."""
    shown: list[Proof] = []

    def reflect(challenge: Challenge, connection: Connection) -> Proof:
        shown.append(node.prove(node.transcript(challenge.nonce, client=None)))
        return shown[0]

    attacker = study.instance()
    with answering(attacker, reflect) as at, pytest.raises(UnacceptableError) as caught:
        study.attest(at)
    assert caught.value.failures[0] == A_NODE
    assert study.convinced_by(shown[0]).entry in study.charter.reference


def test_the_role_alone_is_enough_to_refuse(study: Study, node: Instance) -> None:
    """A node with the aggregator's name, charter and TLS key, dialled by bob himself: all that differs is the role."""
    told = study.instance()
    with answering(told, claiming(told, role="node")) as at, pytest.raises(UnacceptableError) as caught:
        study.attest(at)
    assert caught.value.failures == (A_NODE,)


def test_nor_is_an_aggregators_proof_a_nodes(study: Study) -> None:
    """The other way round: a key for a node's data is not given to an aggregator."""
    with study.aggregator() as running, pytest.raises(UnacceptableError) as caught:
        study.attest(running.at, role="node", configuration=b"\x0f" * 32)
    assert caught.value.failures == (
        "it says that it is a 'aggregator', and a 'node' was dialled",
        "it runs with another configuration than the one that is demanded",
    )


def test_a_client_that_is_an_instance_itself_is_no_server(study: Study) -> None:
    """A challenge is answered with the challenger's own key in T: the client's half of a conversation cannot be turned
    round, since whoever answers is named as the server."""
    own = study.instance()
    transcript = own.transcript(bytes(32), client=spki_hash(own.fingerprint))
    assert transcript.server == transcript.client  # an instance that dials itself
    with answering(own, claiming(own, client=transcript.client)) as at, pytest.raises(UnacceptableError) as caught:
        study.attest(at)
    assert caught.value.failures == ("its proof is about another client's connection: somebody stands in between",)
