"""An owner's new key makes no new owner: two cohorts that differ by one organisation stay near, whatever its key is.

The difference of two means of one model would be that owner's update. Under a successor charter the same owners have
the same first model, and one of them a key of its own choosing.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.charter.charter import Charter
from cloister.charter.succession import check_successor, hand_over
from cloister.charter.toml import parse_charter
from cloister.errors import CharterError
from cloister.ledger.job import Tensors
from cloister.node.study.journal import Records
from tests.support import charters, members
from tests.support.charters import fingerprint_of, key_of, signatures
from tests.support.members import PARTS, START, Aggregator, agreed_job, declined, leaves, owner

THREE, FOUR = ("bob", "alice", "chuck"), ("bob", "alice", "chuck", "dora")


def agreed(*, rotated: bool = False, known: bool = True, **changed: object) -> Charter:
    """A charter of four owners. Where chuck's key is ``rotated``, it may be ``known`` by its old one."""
    given = {
        "owners": FOUR,
        "floor": "3",
        "jobs": [agreed_job()],
        "row_buckets": "[20]",
        "first_model": f'"{Tensors(PARTS).name_of(START).hex()}"',
        "interactive": "false",
        **changed,
    }
    text = charters.text(**given)  # type: ignore[arg-type]
    if rotated:
        new = f'key = "{fingerprint_of("chuck, later")}"\n'
        new += f'id = "{fingerprint_of("chuck")}"\n' if known else ""
        text = text.replace(f'key = "{fingerprint_of("chuck")}"\n', new)
    return charters.parse_charter(text)


def agrees_again(second: Charter) -> str:
    """Whether bob, who has agreed to a cohort of three, agrees to one of four under another charter; or why not."""
    notes = Records(None)
    first = Aggregator.facing(owner(notes=notes, agreed=agreed()))
    first.contribute(1)
    first.consent(1, THREE)
    again = Aggregator.facing(owner(notes=notes, agreed=second), instance="second")
    again.contribute(1)
    cohort = again.cohort(1, ("bob", "alice", "chuck, later", "dora"))
    effects = again.draft(cohort)
    assert not leaves(effects)
    return declined(effects) if "differs" in str(effects) else ""


def test_a_cohort_with_the_same_owner_under_a_new_key_is_near() -> None:
    second = agreed(serial=2, supersedes=agreed().digest, rotated=True)
    assert "differs in 1 members was agreed to under another charter on the same model" in agrees_again(second)


def test_without_ids_the_new_key_would_pass_for_another_owner() -> None:
    """What the attack is worth: three keys differ, as many as the floor asks for, and one organisation."""
    assert agrees_again(agreed(serial=2, supersedes=agreed().digest, rotated=True, known=False)) == ""


def test_the_owner_itself_is_not_listed_anew() -> None:
    """So among honest owners ids stay: chuck's node would not serve under a charter that calls it another."""
    notes = Records(None)
    members.owner("chuck", notes=notes, agreed=agreed())
    anew = agreed(serial=2, supersedes=agreed().digest, rotated=True, known=False)
    with pytest.raises(CharterError, match="so that cohorts can be compared"):
        members.owner("chuck", notes=notes, agreed=anew)


# Who may stand under an id


def swapped(**changed: object) -> Charter:
    """A charter of other owners, which lists eve under chuck's id."""
    text = charters.text(
        owners=FOUR,
        floor="3",
        jobs=[agreed_job()],
        row_buckets="[20]",
        first_model=f'"{Tensors(PARTS).name_of(START).hex()}"',
        interactive="false",
        **changed,  # type: ignore[arg-type]
    )
    lines = f'name = "chuck"\nrole = "owner"\nkey = "{fingerprint_of("chuck")}"\n'
    eve = f'name = "eve"\nrole = "owner"\nkey = "{fingerprint_of("eve")}"\nid = "{fingerprint_of("chuck")}"\n'
    assert lines in text
    return charters.parse_charter(text.replace(lines, eve))


def test_another_study_gives_nobody_the_id_of_another() -> None:
    """Bob would agree to a cohort with eve as if it were the one with chuck, and the difference would be theirs."""
    notes = Records(None)
    owner(notes=notes, agreed=agreed())
    other = parse_charter(charters.text(owners=FOUR, interactive="true").replace("stroke-study", "another"))
    owner(notes=notes, agreed=other)  # the same keys under the same ids
    text = 'name = "stroke-study"'
    for name in ("third", "fourth"):  # however often
        found = charters.text(owners=FOUR)
        found = found.replace(text, f'name = "{name}"').replace(
            f'key = "{fingerprint_of("chuck")}"\n',
            f'key = "{fingerprint_of("eve")}"\nid = "{fingerprint_of("chuck")}"\n',
        )
        with pytest.raises(CharterError, match="under an id that is here the id of another key"):
            owner(notes=notes, agreed=parse_charter(found))


def test_a_study_of_the_same_name_hands_an_id_to_the_same_name_alone() -> None:
    """Whoever lists eve under chuck's id, and calls the study the same, is no successor's author."""
    notes = Records(None)
    owner(notes=notes, agreed=agreed())
    with pytest.raises(CharterError, match="under an id that is here the id of another key"):
        owner(notes=notes, agreed=swapped(serial=2, supersedes=agreed().digest))


def test_a_key_has_the_id_that_it_had() -> None:
    notes = Records(None)
    owner(notes=notes, agreed=agreed())
    second = agreed(serial=2, supersedes=agreed().digest, rotated=True)
    owner(notes=notes, agreed=second)  # handed on in the line of the charter
    text = charters.text(owners=("bob", "alice", "chuck, later")).replace("stroke-study", "another")
    named = f'name = "chuck-later"\nrole = "owner"\nkey = "{fingerprint_of("chuck, later")}"\n'
    text = text.replace('name = "chuck, later"', 'name = "chuck-later"')
    assert named in text
    with pytest.raises(CharterError, match="under another id than a charter before it"):
        owner(notes=notes, agreed=parse_charter(text))
    owner(notes=notes, agreed=parse_charter(text.replace(named, f'{named}id = "{fingerprint_of("chuck")}"\n')))


def test_what_was_listed_is_known_after_a_restart(tmp_path: Path) -> None:
    notes = Records(tmp_path)
    owner(notes=notes, agreed=agreed())
    notes.close()
    notes = Records(tmp_path)
    with pytest.raises(CharterError, match="under an id that is here the id of another key"):
        owner(
            notes=notes,
            agreed=parse_charter(
                charters.text(owners=FOUR)
                .replace("stroke-study", "other")
                .replace(
                    f'key = "{fingerprint_of("chuck")}"\n',
                    f'key = "{fingerprint_of("eve")}"\nid = "{fingerprint_of("chuck")}"\n',
                )
            ),
        )
    notes.close()


def test_an_id_is_not_handed_on_to_another_name() -> None:
    old, new = agreed(), swapped(serial=2, supersedes=agreed().digest)
    with pytest.raises(CharterError, match="gives eve the id of chuck"):
        check_successor(old, new=new, signatures=signatures(new, "bob", "alice", "dora", "eve"))


# The succession


def test_a_key_is_rotated_by_itself_and_all_owners_and_nothing_less() -> None:
    old, new = agreed(), agreed(serial=2, supersedes=agreed().digest, rotated=True)
    keys, handed = ("bob", "alice", "chuck, later", "dora"), [hand_over(old, new=new, key=key_of("chuck"))]
    check_successor(old, new=new, signatures=signatures(new, *keys), hand_overs=handed)
    for missing in keys:
        some = signatures(new, *(each for each in keys if each != missing))
        with pytest.raises(CharterError, match="is not signed by"):
            check_successor(old, new=new, signatures=some, hand_overs=handed)
    with pytest.raises(CharterError, match="lacks the signature of chuck"):
        check_successor(old, new=new, signatures=signatures(new, *keys))


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
