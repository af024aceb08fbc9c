"""From one charter to the next: forward, and with all owners of both."""

from __future__ import annotations

import pytest

from cloister.charter.signatures import check_successor
from cloister.charter.toml import parse_charter
from cloister.errors import CharterError
from tests.support.charters import charter, fingerprint_of, signatures, text

FIRST = charter()
SECOND = charter(serial=2, supersedes=FIRST.digest, rounds="200")


def test_the_same_charter_and_the_next_one() -> None:
    check_successor(FIRST, new=FIRST, signatures=signatures(FIRST), own=fingerprint_of("bob"))
    check_successor(FIRST, new=SECOND, signatures=signatures(SECOND), own=fingerprint_of("bob"))


def test_serials_only_rise() -> None:
    with pytest.raises(CharterError, match="an older charter does not come back"):
        check_successor(SECOND, new=FIRST, signatures=signatures(FIRST))


def test_a_serial_names_one_charter() -> None:
    fork = charter(rounds="200")
    with pytest.raises(CharterError, match="a change needs the next serial"):
        check_successor(FIRST, new=fork, signatures=signatures(fork))


def test_the_next_serial_names_the_one_before_it() -> None:
    stranger = charter(serial=2, supersedes=bytes(32))
    with pytest.raises(CharterError, match="supersedes another charter"):
        check_successor(FIRST, new=stranger, signatures=signatures(stranger))


def test_serials_that_were_never_seen_do_not_stop_a_node_that_was_away() -> None:
    third = charter(serial=3, supersedes=SECOND.digest)
    check_successor(FIRST, new=third, signatures=signatures(third))


def test_another_name_is_another_line() -> None:
    other = parse_charter(text(serial=2, supersedes=FIRST.digest).replace("stroke-study", "heart-study"))
    with pytest.raises(CharterError, match="the same name"):
        check_successor(FIRST, new=other, signatures=signatures(other))


def test_an_owner_leaves_by_its_own_signature() -> None:
    leaving = charter(serial=2, supersedes=FIRST.digest, owners=("bob", "alice"), auditors=("chuck",))
    with pytest.raises(CharterError, match="lacks the signature of chuck"):
        check_successor(FIRST, new=leaving, signatures=signatures(leaving))
    check_successor(FIRST, new=leaving, signatures=signatures(leaving, "bob", "alice", "chuck"))
    gone = charter(serial=3, supersedes=leaving.digest, owners=("bob", "alice"))
    check_successor(leaving, new=gone, signatures=signatures(gone))
    with pytest.raises(CharterError, match="lacks the signature of chuck"):
        check_successor(FIRST, new=gone, signatures=signatures(gone))


def test_who_joins_signs() -> None:
    joined = charter(serial=2, supersedes=FIRST.digest, owners=("bob", "alice", "chuck", "dora"))
    with pytest.raises(CharterError, match="not signed by dora"):
        check_successor(FIRST, new=joined, signatures=signatures(joined, "bob", "alice", "chuck"))
    check_successor(FIRST, new=joined, signatures=signatures(joined))
