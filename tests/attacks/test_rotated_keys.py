"""An owner's new key makes no new owner: two cohorts that differ by one organisation stay near, whatever its key is.

The difference of two means of one model would be that owner's update. Under a successor charter the same owners have
the same first model, and one of them a key of its own choosing.
"""

from __future__ import annotations

import pytest

from cloister.charter.charter import Charter
from cloister.charter.signatures import check_successor
from cloister.errors import CharterError
from cloister.ledger.job import describe
from cloister.node.study.journal import Records
from tests.support import charters, members
from tests.support.charters import fingerprint_of, signatures
from tests.support.members import PARTS, START, Aggregator, agreed_job, declined, leaves, owner

THREE, FOUR = ("bob", "alice", "chuck"), ("bob", "alice", "chuck", "dora")


def agreed(*, rotated: bool = False, known: bool = True, **changed: object) -> Charter:
    """A charter of four owners. Where chuck's key is ``rotated``, it may be ``known`` by its old one."""
    given = {
        "owners": FOUR,
        "floor": "3",
        "jobs": [agreed_job()],
        "row_buckets": "[20]",
        "first_model": f'"{describe(PARTS, (), START).hex()}"',
        "interactive": "false",
        **changed,
    }
    text = charters.text(**given)  # type: ignore[arg-type]
    if rotated:
        new = f'key = "{fingerprint_of("chuck, later")}"\n'
        new += f'id = "{fingerprint_of("chuck")}"\n' if known else ""
        text = text.replace(f'key = "{fingerprint_of("chuck")}"\n', new)
    return charters.parse_charter(text)


def signs_again(second: Charter) -> str:
    """Whether bob, who has signed a cohort of three, signs one of all four under another charter; or why not."""
    notes = Records(None)
    first = Aggregator.facing(owner(notes=notes, agreed=agreed()))
    first.contribute(1)
    first.sign(1, THREE)
    again = Aggregator.facing(owner(notes=notes, agreed=second), instance="second")
    again.contribute(1)
    cohort = again.cohort(1, ("bob", "alice", "chuck, later", "dora"))
    effects = again.ask(cohort)
    assert not leaves(effects)
    return declined(effects) if "differs" in str(effects) else ""


def test_a_cohort_with_the_same_owner_under_a_new_key_is_near() -> None:
    second = agreed(serial=2, supersedes=agreed().digest, rotated=True)
    assert "differs in 1 members was signed on the same model" in signs_again(second)


def test_without_ids_the_new_key_would_pass_for_another_owner() -> None:
    """What the attack is worth: three keys differ, as many as the floor asks for, and one organisation."""
    assert signs_again(agreed(serial=2, supersedes=agreed().digest, rotated=True, known=False)) == ""


def test_the_owner_itself_is_not_listed_anew() -> None:
    """So among honest owners ids stay: chuck's node would not serve under a charter that calls it another."""
    notes = Records(None)
    members.owner("chuck", notes=notes, agreed=agreed())
    anew = agreed(serial=2, supersedes=agreed().digest, rotated=True, known=False)
    with pytest.raises(CharterError, match="so that cohorts can be compared"):
        members.owner("chuck", notes=notes, agreed=anew)


# The succession


def test_a_key_is_rotated_by_all_owners_signatures_and_nothing_less() -> None:
    old, new = agreed(), agreed(serial=2, supersedes=agreed().digest, rotated=True)
    keys = ("bob", "alice", "chuck, later", "dora")
    check_successor(old, new=new, signatures=signatures(new, *keys))
    for missing in keys:
        with pytest.raises(CharterError, match="is not signed by"):
            check_successor(old, new=new, signatures=signatures(new, *(each for each in keys if each != missing)))


def test_an_owner_that_is_dropped_has_to_sign_for_that() -> None:
    old, unknown = agreed(), agreed(serial=2, supersedes=agreed().digest, rotated=True, known=False)
    with pytest.raises(CharterError, match="lacks the signature of chuck"):
        check_successor(old, new=unknown, signatures=signatures(unknown, "bob", "alice", "chuck, later", "dora"))


@pytest.mark.parametrize("other", ["alice", "dora"])
def test_an_id_is_no_other_members(other: str) -> None:
    text = charters.text(owners=FOUR)
    line = f'key = "{fingerprint_of("chuck")}"\n'
    with pytest.raises(CharterError, match=r"members\[2\]\.id: is another member's|members\[\d\]\.id"):
        charters.parse_charter(text.replace(line, f'{line}id = "{fingerprint_of(other)}"\n'))
