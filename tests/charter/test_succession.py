"""From one charter to the next: forward, and with all owners of both, or after a wait without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cloister.charter import Charter, Member, keys
from cloister.charter.signatures import decode, encode
from cloister.charter.succession import CONTEXT, FORMAT, check_successor, hand_over
from cloister.charter.toml import parse_charter
from cloister.errors import CharterError
from tests.support.charters import charter, fingerprint_of, key_of, signatures, text

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


# Another key


def rotated(old: Charter = FIRST, **changed: str) -> Charter:
    """The next charter, in which chuck has another key."""
    line = f'key = "{fingerprint_of("chuck")}"\n'
    given = text(serial=old.serial + 1, supersedes=old.digest, **changed)  # type: ignore[arg-type]
    return parse_charter(
        given.replace(line, f'key = "{fingerprint_of("chuck, later")}"\nid = "{fingerprint_of("chuck")}"\n')
    )


OTHER = rotated()
SIGNED = signatures(OTHER, "bob", "alice", "chuck, later")
HANDED = hand_over(FIRST, new=OTHER, key=key_of("chuck"))


def test_a_key_hands_over_to_the_next() -> None:
    check_successor(FIRST, new=OTHER, signatures=SIGNED, hand_overs=[HANDED])
    written = encode(HANDED, form=FORMAT)
    assert decode(written, form=FORMAT) == HANDED
    with pytest.raises(CharterError, match="format"):
        decode(written)  # it is no signature of a charter
    with pytest.raises(CharterError, match="lacks the signature of chuck"):
        check_successor(FIRST, new=OTHER, signatures=SIGNED)


def test_a_hand_over_counts_where_its_key_was_an_owners() -> None:
    check_successor(OTHER, new=OTHER, signatures=SIGNED, hand_overs=[HANDED])  # at the node's next start
    with pytest.raises(CharterError, match=r"no owner's of serial 1"):
        hand_over(FIRST, new=OTHER, key=key_of("rosa"))
    with pytest.raises(CharterError, match="is still bob's"):
        hand_over(FIRST, new=OTHER, key=key_of("bob"))


@pytest.mark.parametrize(
    "faulty",
    [
        replace(HANDED, charter=FIRST.digest),
        replace(HANDED, public_key=SIGNED[0].public_key),
        replace(HANDED, signature=SIGNED[2].signature),
        hand_over(FIRST, new=rotated(rounds="200"), key=key_of("chuck")),
        replace(hand_over(FIRST, new=rotated(rounds="200"), key=key_of("chuck")), charter=OTHER.digest),
    ],
    ids=["charter", "public key", "signature", "of another successor", "of another, renamed"],
)
def test_a_hand_over_that_is_none(faulty) -> None:
    with pytest.raises(CharterError, match="chuck's hand-over is"):
        check_successor(FIRST, new=OTHER, signatures=SIGNED, hand_overs=[faulty])


def test_nobody_hands_over_in_anothers_name() -> None:
    key = key_of("mallory")
    forged = replace(HANDED, public_key=keys.public_bytes(key), signature=keys.sign(CONTEXT + OTHER.digest, key=key))
    with pytest.raises(CharterError, match="comes with another public key"):
        check_successor(FIRST, new=OTHER, signatures=SIGNED, hand_overs=[forged])


def test_no_other_signature_hands_over() -> None:
    key = key_of("chuck")
    signature = key.sign(OTHER.digest)  # type: ignore[call-arg,union-attr]
    with pytest.raises(CharterError, match="not valid"):
        check_successor(FIRST, new=OTHER, signatures=SIGNED, hand_overs=[replace(HANDED, signature=signature)])
    assert CONTEXT == b"cloister charter hand-over 1\0"


# A key that is lost

WAITING = charter(lost_key_days="30")
LOST = rotated(WAITING, lost_key_days="30")


def asked_to_wait(old: Charter, new: Charter, *names: str) -> list[str]:
    """Whose keys are said to be lost, where the signatures of these members are there."""
    found: list[str] = []

    def wait(silent: Sequence[Member]) -> None:
        found.extend(owner.name for owner in silent)

    check_successor(old, new=new, signatures=signatures(new, *names), wait=wait)
    return found


def test_a_lost_key_is_waited_for() -> None:
    assert asked_to_wait(WAITING, LOST, "bob", "alice", "chuck, later") == ["chuck"]
    assert asked_to_wait(WAITING, charter(serial=2, supersedes=WAITING.digest), "bob", "alice", "chuck") == []
    with pytest.raises(CharterError, match="nodes wait 30 days"):
        check_successor(WAITING, new=LOST, signatures=signatures(LOST, "bob", "alice", "chuck, later"))


def test_an_owner_that_is_gone_is_waited_for() -> None:
    gone = charter(serial=2, supersedes=WAITING.digest, owners=("bob", "alice"))
    assert asked_to_wait(WAITING, gone, "bob", "alice") == ["chuck"]


def test_a_key_that_the_successor_lists_is_not_lost() -> None:
    leaving = charter(serial=2, supersedes=WAITING.digest, owners=("bob", "alice"), auditors=("chuck",))
    with pytest.raises(CharterError, match="lists that key as one that can sign"):
        asked_to_wait(WAITING, leaving, "bob", "alice")


def test_the_old_charter_says_whether_there_is_a_wait() -> None:
    with pytest.raises(CharterError, match="names no lost_key_days"):
        asked_to_wait(FIRST, rotated(FIRST, lost_key_days="30"), "bob", "alice", "chuck, later")


def test_a_minority_replaces_nobody() -> None:
    old = charter(lost_key_days="30", owners=("bob", "alice", "chuck", "dora"))
    new = charter(serial=2, supersedes=old.digest, lost_key_days="30", owners=("bob", "alice"))
    with pytest.raises(CharterError, match="a quorum has to sign, 3 of the 4 owners"):
        asked_to_wait(old, new, "bob", "alice")
    three = charter(serial=2, supersedes=old.digest, lost_key_days="30", owners=("bob", "alice", "chuck"))
    assert asked_to_wait(old, three, "bob", "alice", "chuck") == ["dora"]


def test_new_owners_count_for_no_quorum() -> None:
    old = charter(lost_key_days="30", owners=("bob", "alice", "chuck", "dora"))
    new = charter(serial=2, supersedes=old.digest, lost_key_days="30", owners=("bob", "alice", "eve", "mallory"))
    with pytest.raises(CharterError, match="a quorum has to sign"):
        asked_to_wait(old, new, "bob", "alice", "eve", "mallory")


@pytest.mark.parametrize("missing", ["bob", "alice", "chuck, later"])
def test_all_others_sign_however_long_it_waits(missing: str) -> None:
    names = [name for name in ("bob", "alice", "chuck, later") if name != missing]
    with pytest.raises(CharterError, match="is not signed by"):
        asked_to_wait(WAITING, LOST, *names)
