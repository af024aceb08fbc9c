"""When a charter may be used."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cloister.charter.charter import check_valid
from cloister.errors import CharterError
from tests.support.charters import charter


def test_a_charter_has_its_time() -> None:
    agreed = charter()
    check_valid(agreed, now=agreed.not_before)
    check_valid(agreed, now=agreed.not_after)
    with pytest.raises(CharterError, match="is this clock right"):
        check_valid(agreed, now=agreed.not_before - timedelta(seconds=1))
    with pytest.raises(CharterError, match="needs a successor"):
        check_valid(agreed, now=agreed.not_after + timedelta(seconds=1))
