"""Whether a charter may be used: what software has to enforce, and when."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cloister.charter.charter import check_valid, enforceable
from cloister.errors import CharterError
from tests.support.charters import charter


def test_software_refuses_what_it_cannot_enforce() -> None:
    enforceable(charter())
    noisy = charter(noise='{ mechanism = "gaussian", multiplier = 1 }', interactive="false")
    with pytest.raises(CharterError, match="asks for noise, which this version"):
        enforceable(noisy)
    enforceable(noisy, enforced=frozenset({"noise"}))
    with pytest.raises(CharterError, match="asks for interactive"):
        enforceable(charter(), enforced=frozenset({"noise"}))


def test_a_charter_has_its_time() -> None:
    agreed = charter()
    check_valid(agreed, now=agreed.not_before)
    check_valid(agreed, now=agreed.not_after)
    with pytest.raises(CharterError, match="is this clock right"):
        check_valid(agreed, now=agreed.not_before - timedelta(seconds=1))
    with pytest.raises(CharterError, match="needs a successor"):
        check_valid(agreed, now=agreed.not_after + timedelta(seconds=1))
