"""The one place where an owner signs: what it is told of the proof decides, whoever calls it."""

from __future__ import annotations

import pytest

from cloister.errors import RoundError
from cloister.ledger.records import encode
from cloister.node.study.countersigner import Countersigner, OwnLimits
from cloister.node.study.journal import Records
from tests.support import charters
from tests.support.members import Aggregator, owner


def test_nothing_is_signed_for_an_instance_that_has_not_proved_itself_in_this_round() -> None:
    here, notes = Aggregator.facing(owner()), Records(None)
    agreed = here.ledger.charter
    signer = Countersigner(agreed, key=charters.key_of("bob"), limits=OwnLimits(agreed, floors=None), records=notes)
    cohort = encode(here.cohort(names=("alice", "chuck")))
    with pytest.raises(RoundError, match="has not proved, in this round"):
        signer.sign(cohort, number=1, ledger=here.ledger, proved=False, rules={})
    assert not notes.signed(agreed.digest)
    signed = signer.sign(cohort, number=1, ledger=here.ledger, proved=True, rules={})
    assert notes.signed(agreed.digest) == {1: signed}
