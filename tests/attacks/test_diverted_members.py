"""Attack: lead a member to another genuine enclave of the same software, under the same charter.

The operator runs two, and has each see half of the members: averages over halves say more than the whole. Each instance
says in its evidence at which address of the charter it is reached, and a member compares.
"""

from __future__ import annotations

import pytest

from cloister.errors import MoveError, UnacceptableError
from cloister.node.aggregators import Aggregators
from tests.support.attested import ADDRESS, Study, overheard
from tests.support.tls import SOON

SHADOW = "shadow.example:7443"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    found = Study(tmp_path_factory.mktemp("study"))
    found.charter = found.agree(addresses=[ADDRESS, SHADOW])
    return found


def test_a_member_that_is_led_elsewhere_notices(study: Study) -> None:
    with study.aggregator(study.instance(name=SHADOW)) as shadow:
        assert study.convinced_by(overheard(shadow.at, study.charter)).entry in study.charter.reference
        with pytest.raises(UnacceptableError) as caught:
            study.attest(shadow.at, name=ADDRESS)
        (failure,) = caught.value.failures
        assert failure == (
            f"it is another instance than the one that was dialled: it listens as '{SHADOW}', not as '{ADDRESS}'"
        )
        study.attest(shadow.at, name=SHADOW).close()  # for whoever means to go there


def test_a_node_that_is_led_elsewhere_sends_nothing(study: Study) -> None:
    """Both aggregators are acceptable, and the researcher named the key of one. The way there leads to the other."""
    with study.aggregator() as first, study.aggregator(study.instance(name=SHADOW)) as shadow:
        swapped = Aggregators(study.policy(), identity=study.bob, routes={ADDRESS: shadow.at, SHADOW: first.at})
        for running in (first, shadow):
            with pytest.raises(MoveError, match="nothing was sent") as caught:
                swapped.dial(running.instance.fingerprint, within_s=SOON, send_s=SOON)
            assert str(caught.value).count("another instance than the one that was dialled") == 2


def test_a_second_instance_under_the_first_ones_name_has_another_key(study: Study) -> None:
    """What a name cannot tell, the key does: values go to the instance that the session is at, or nowhere."""
    with study.aggregator() as first, study.aggregator() as second:
        diverted = Aggregators(study.policy(), identity=study.bob, routes={ADDRESS: second.at, SHADOW: second.at})
        with pytest.raises(MoveError, match=f"it shows the key {second.instance.fingerprint}, not"):
            diverted.dial(first.instance.fingerprint, within_s=SOON, send_s=SOON)
