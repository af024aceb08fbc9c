"""Successors are written with what is asked for and what follows from it, and say in sentences what has changed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.charter.difference import begins_anew, changes
from cloister.charter.succeeding import Asked, Reached, succeed
from cloister.charter.toml import parse_charter
from cloister.errors import CharterError
from cloister.wire.optimizers import SGD, CosineDecay
from cloister.wire.strategies import FedAdam, FedAvg, FedAvgM, FedProx
from tests.support.charters import SGX, agreed_job, fingerprint_of, text

PLAN = bytes(32)
MODEL = f'"{"11" * 32}"'
OLD = text(jobs=[agreed_job(PLAN)], first_model=MODEL, software=SGX)
NEWEST = bytes.fromhex("22" * 32)


def after(asked: Asked = Asked(), reached: Reached = Reached(), old: str = OLD):  # noqa: B008 - both are frozen
    return parse_charter(succeed(old, asked=asked, reached=reached))


def said(new, old: str = OLD) -> str:
    return "\n".join(f"{each.said}; {each.check}" for each in changes(parse_charter(old), new))


def test_what_is_not_asked_for_stays() -> None:
    old, new = parse_charter(OLD), after()
    assert (new.serial, new.supersedes) == (2, old.digest)
    assert replace(new, serial=1, supersedes=None) == old
    assert said(new) == "it is serial 2 of stroke-study, and supersedes serial 1; "


def test_an_owner_joins() -> None:
    new = after(Asked(owners={"dora": fingerprint_of("dora")}))
    assert [owner.name for owner in new.owners] == ["alice", "bob", "chuck", "dora"]
    assert f"dora joins as owner, with the key {fingerprint_of('dora')}; dora says, by a way that you know" in said(new)


def test_a_key_changes_and_the_id_stays() -> None:
    new = after(Asked(keys={"chuck": fingerprint_of("second")}))
    (chuck,) = (owner for owner in new.owners if owner.name == "chuck")
    assert (chuck.key, chuck.id) == (fingerprint_of("second"), fingerprint_of("chuck"))
    assert "its id stays; chuck says, by a way that you know" in said(new)
    written = succeed(OLD, asked=Asked(keys={"chuck": fingerprint_of("second")}), reached=Reached())
    third = after(Asked(keys={"chuck": fingerprint_of("third")}), old=written)
    (chuck,) = (owner for owner in third.owners if owner.name == "chuck")
    assert (chuck.key, chuck.id) == (fingerprint_of("third"), fingerprint_of("chuck"))


def test_an_owner_leaves_as_an_auditor_or_is_gone() -> None:
    new = after(Asked(leave=["chuck"]))
    assert [member.name for member in new.auditors] == ["chuck"]
    assert "chuck is an auditor, and was an owner; chuck signs that itself" in said(new)
    new = after(Asked(gone=["chuck"]))
    assert all(member.name != "chuck" for member in new.members)
    assert "chuck (owner) is a member no more" in said(new)
    assert all(member.name != "rosa" for member in after(Asked(leave=["rosa"])).members)


def test_it_starts_from_the_newest_model_and_from_nothing_else() -> None:
    old = OLD.replace("[limits]", f'[limits]\nfirst_model_file = "{"33" * 32}"')
    new = after(reached=Reached(model=NEWEST, done={"train": 1}, spent=1), old=old)
    assert (new.limits.first_model, new.limits.first_model_file) == (NEWEST, None)
    assert "it starts from the model 2222" in said(new, old)
    drawn = OLD + '[[first_model]]\ntensor = "w"\ndtype = "float32"\nshape = [2]\ndraw = "constant"\nvalue = 0.0\n'
    assert after(old=drawn).recipe
    assert not after(reached=Reached(model=NEWEST), old=drawn).recipe


def test_the_rounds_that_are_left_or_others() -> None:
    new = after(reached=Reached(model=NEWEST, done={"train": 1}, spent=1))
    assert (new.jobs[0].rounds, new.limits.rounds) == (2, 100)
    new = after(Asked(rounds=99), Reached(model=NEWEST, done={"train": 1}, spent=4))
    assert (new.jobs[0].rounds, new.limits.rounds) == (99, 103)
    assert "limits.rounds is 103, and was 100; each node has rounds left" in said(new)
    with pytest.raises(CharterError, match="say how many more"):
        after(reached=Reached(model=NEWEST, done={"train": 3}, spent=3))


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (Asked(keys={"mallory": fingerprint_of("x")}), "mallory is no member of it; it has alice, bob"),
        (Asked(gone=["chuck"], leave=["chuck"]), "two things are asked for chuck"),
        (Asked(owners={"bob": fingerprint_of("x")}), "bob is a member of it already"),
        (Asked(owners={"dora": fingerprint_of("bob")}), "another member has this key"),
        (Asked(owners={"dora": "sha256:"}), "its successor"),
        (Asked(gone=["chuck", "alice"]), "2 members are never together"),
    ],
)
def test_no_such_successor(asked: Asked, why: str) -> None:
    with pytest.raises(CharterError, match=why):
        after(asked)


def test_what_begins_anew_is_said() -> None:
    assert begins_anew(agreed_job(PLAN, strategy=FedAvg())) == ""
    assert begins_anew(agreed_job(PLAN, strategy=FedProx(0.1))) == ""
    assert begins_anew(agreed_job(PLAN, strategy=FedAvgM())) == "the averages of FedAvgM"
    scheduled = agreed_job(PLAN, strategy=FedAdam(), optimizer=SGD(0.1, schedule=CosineDecay(3, 0.05)))
    assert begins_anew(scheduled) == "the averages of FedAdam and the schedule of the learning rate"
    old = text(jobs=[scheduled], first_model=MODEL)
    assert "job train: the averages of FedAdam and the schedule" in said(after(old=old), old)


def test_any_other_change_is_said_by_its_path() -> None:
    other = parse_charter(OLD.replace("clip = 1.0", "clip = 2.0").replace("rosa", "rose"))
    found = said(other)
    assert "limits.clip is 2.0, and was 1.0" in found
    assert "rosa (researcher) is a member no more" not in found
    assert "rosa is called rose" in found or "rose joins" in found
    assert "does not supersede this serial 1" in found


@given(st.text(min_size=1, max_size=20))
def test_any_text_is_written_so_that_it_is_read_again(reason: str) -> None:
    old = text(jobs=[agreed_job(PLAN, optimizer=SGD(2.0), unsafe_lr="because")], first_model=MODEL)
    try:
        asked = old.replace('"because"', json.dumps(reason, ensure_ascii=False))
        before = parse_charter(asked)
    except CharterError:
        return
    assert after(old=asked).jobs == before.jobs
