"""``cloister charter``: new, check, sign, show, encode."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path

import pytest

import cloister
from cloister.charter.succession import check_successor
from cloister.cli import main
from cloister.cli.study import read_study
from cloister.net.files import read_charter
from cloister.net.identity import Identity
from cloister.net.signatures import read_hand_overs, read_signatures
from tests.charter.test_noise import RECORD, drawn
from tests.study.test_study_file import EXAMPLE, loss, model, written
from tests.support.charters import agreed_job, fingerprint_of, text


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Runs a command and returns its exit code, output and complaints."""

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["charter", *words])
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    return run


def agree(**changed: str) -> str:
    """A charter.toml whose members have identity files."""
    written = text(**changed)  # type: ignore[arg-type]
    for name, algorithm in (("bob", "ed25519"), ("alice", "p256"), ("chuck", "ed25519"), ("rosa", "ed25519")):
        if not Path(f"{name}.key").exists():
            Identity.create(f"{name}.key", algorithm=algorithm)
        written = written.replace(fingerprint_of(name), Identity.read(f"{name}.key").fingerprint)
    Path("charter.toml").write_text(written)
    return written


def digest(out: str) -> str:
    return re.search(r"digest +([0-9a-f]{64})\n", out)[1]


def test_new_writes_a_file_to_fill_in_and_never_over_one(run, folder) -> None:
    code, out, err = run("new", "charter.toml", "--name", "stroke-study")
    assert (code, err) == (0, "")
    assert "cloister charter check charter.toml" in out
    written = (folder / "charter.toml").read_text()
    assert 'name = "stroke-study"' in written
    code, _, err = run("new", "charter.toml", "--name", "other")
    assert code == 1
    assert "not overwritten" in err
    assert (folder / "charter.toml").read_text() == written
    assert run("new", "none/charter.toml", "--name", "x")[0] == 1
    assert run("new", "x.toml", "--name", "../x")[0] == 1
    assert run("new", "x.toml")[0] == 2


def test_check_lists_every_fault(run) -> None:
    run("new", "--name", "stroke-study")
    code, _, err = run("check", "charter.toml")
    assert code == 1
    for place in ("members[0].key", "members[3].key", "software[0].measurement"):
        assert place in err
    code, _, err = run("check", "none.toml")
    assert code == 1
    assert "none.toml cannot be read" in err


def test_encode_writes_what_is_signed(run, folder) -> None:
    agree()
    code, out, err = run("encode", "charter.toml")
    assert (code, err) == (0, "")
    told = hashlib.sha256((folder / "charter.cbor").read_bytes()).hexdigest()
    assert told in out
    assert told == digest(run("show", "charter.toml")[1])
    code, _, err = run("encode", "charter.toml", "charter.cbor")
    assert code == 1
    assert "not overwritten" in err
    assert run("encode", "none.toml", "other.cbor")[0] == 1


def test_all_members_sign_the_same_digest(run, folder) -> None:
    agree()
    code, out, _ = run("check", "charter.toml")
    assert code == 0
    assert out.count("NOT SIGNED") == 4
    assert "warning     interactive: " in out
    assert "the signature of alice, bob, chuck is missing" in out
    agreed = digest(out)
    for name in ("bob", "alice", "chuck"):
        code, out, err = run("sign", "charter.toml", "--yes", "--key", f"{name}.key")
        assert (code, err) == (0, "")
        assert digest(out) == agreed
        assert "warning     interactive: " in out
        assert f"signed as {name} (owner): charter.sigs/{name}.sig" in out
        assert "PRIVATE" not in out
    code, out, _ = run("check", "charter.toml")
    assert code == 0
    assert out.count(", signed") == 3
    assert "all owners have signed it" in out
    assert sorted(file.name for file in (folder / "charter.sigs").iterdir()) == ["alice.sig", "bob.sig", "chuck.sig"]


def test_a_changed_charter_needs_new_signatures(run) -> None:
    written = agree()
    run("sign", "charter.toml", "--yes", "--key", "bob.key")
    Path("charter.toml").write_text("# only a comment\n" + written)
    assert ", signed" in run("check", "charter.toml")[1]
    Path("charter.toml").write_text(written.replace("rounds = 100", "rounds = 101"))
    code, out, err = run("check", "charter.toml")
    assert code == 1
    assert "bob's signature is for another charter" in out
    assert "do not stand" in err
    run("sign", "charter.toml", "--yes", "--key", "bob.key")
    assert run("check", "charter.toml")[0] == 0


def test_sign_refuses_strangers_and_faults(run, folder) -> None:
    agree()
    Identity.create("mallory.key")
    code, _, err = run("sign", "charter.toml", "--yes", "--key", "mallory.key")
    assert code == 1
    assert "no member's" in err
    assert run("sign", "charter.toml", "--yes", "--key", "none.key")[0] == 1
    (folder / "bob.key").chmod(0o644)
    code, _, err = run("sign", "charter.toml", "--yes", "--key", "bob.key")
    assert code == 1
    assert "chmod 600" in err
    (folder / "bob.key").chmod(0o600)
    agree(floor="1")
    code, _, err = run("sign", "charter.toml", "--yes", "--key", "alice.key")
    assert code == 1
    assert "limits.floor" in err
    assert not (folder / "charter.sigs").exists()


def test_show_says_what_a_charter_says(run) -> None:
    agree()
    code, out, _ = run("show", "charter.toml")
    assert code == 0
    for said in (
        "agg.example:7443",
        "5a" * 48,
        "platforms",
        "at least 2 members",
        "researcher  rosa",
        "yes: without clip",
    ):
        assert said in out


def test_check_and_sign_say_what_the_noise_is_worth(run) -> None:
    given = {"jobs": [drawn(rounds=20)], "noise": RECORD, "limits": f'first_model = "{"11" * 32}"\n'}
    agree(**given)  # type: ignore[arg-type]
    for words in (("check",), ("sign", "--yes", "--key", "bob.key")):
        out = run(words[0], "charter.toml", *words[1:])[1]
        assert "privacy     epsilon at delta 1e-05 bounds what all rounds together tell of one record" in out
        assert "    after rounds                 1           2           5          10          15          20" in out
    agree()
    assert "privacy" not in run("check", "charter.toml")[1]


def test_look_alikes_are_shown_with_their_code_points(run) -> None:
    written = agree()
    Path("charter.toml").write_text(written.replace('name = "chuck"', 'name = "b\u043eb"'))  # a Cyrillic o
    for command in ("check", "show"):
        out = run(command, "charter.toml")[1]
        assert "owner       bob, sha256:" in out
        assert "b\u043eb (b\\u043eb)" in out
    assert "b\u043eb (b\\u043eb)" in run("check", "charter.toml")[1].splitlines()[-1]


def test_a_member_known_by_an_older_key_is_shown(run) -> None:
    written = agree()
    rosa = Identity.read("rosa.key").fingerprint
    Path("charter.toml").write_text(written.replace(f'key = "{rosa}"', f'key = "{rosa}"\nid = "sha256:{"0" * 64}"'))
    for words in (("check",), ("show",), ("sign", "--yes", "--key", "bob.key")):
        out = run(words[0], "charter.toml", *words[1:])[1]
        assert f"rosa, {rosa}, known by the id of an older key: sha256:{'0' * 64}" in out
    assert "warning     rosa is known by the id of an older key" in run("check", "charter.toml")[1]


def test_what_is_signed_is_shown_before(run) -> None:
    agree()
    out = run("sign", "charter.toml", "--yes", "--key", "bob.key")[1]
    for said in ("5a" * 48, "agg.example:7443", "at least 2 members", "researcher  rosa"):
        assert said in out


# Reading before signing


@pytest.fixture
def study(run, tmp_path, monkeypatch):
    """A study file for which bob has a key."""
    monkeypatch.chdir(tmp_path)
    Identity.create(Path("bob.key"))
    file = written(tmp_path)
    text = read_study(file).charter_text.replace(fingerprint_of("hill"), Identity.load("bob.key").fingerprint)
    Path("charter.toml").write_text(text)
    start = model()
    plans = [loss.capture(start, example=EXAMPLE)]
    cloister.write_study(file, charter="charter.toml", plans=plans, model=start, overwrite=True)
    return file.name


@pytest.mark.slow
@pytest.mark.parametrize("file", ["charter.toml", "stroke.study"])
@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("", 1)])
def test_a_charter_is_signed_by_whoever_has_read_it_and_says_yes(run, study, monkeypatch, file, answer, code):
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    found, out, err = run("sign", file, "--key", "bob.key")
    assert found == code, err
    assert "9 of every owner in every round" in out
    assert ("what leaves this machine" in out) == file.endswith(".study")
    signature = Path(file).with_suffix(".sigs") / "hill.sig"
    assert signature.exists() == (code == 0)
    if code:
        assert "it is not signed" in err


# From one charter to the next


def test_succeed_writes_the_next_charter_and_says_what_to_check(run, folder) -> None:
    agree()
    Identity.create("dora.key")
    key = Identity.read("dora.key").fingerprint
    code, out, err = run("succeed", "charter.toml", "--out", "next.toml", "--add-owner", f"dora={key}")
    assert (code, err) == (0, "")
    assert f"changed     dora joins as owner, with the key {key}" in out
    assert "check       dora says, by a way that you know, that this is its key" in out
    assert "cloister charter diff charter.toml next.toml" in out
    code, same, _ = run("diff", "charter.toml", "next.toml")
    assert code == 0
    assert same in out
    assert run("check", "next.toml")[0] == 0
    code, _, err = run("succeed", "charter.toml", "--out", "next.toml")
    assert (code, "is not overwritten" in err) == (1, True)
    code, _, err = run("succeed", "charter.toml", "--out", "other.toml", "--rotate", "chuck")
    assert (code, "is no NAME=KEY" in err) == (1, True)
    code, _, err = run("succeed", "charter.toml", "--out", "other.toml", "--gone", "mallory")
    assert (code, "mallory is no member of it" in err) == (1, True)
    assert not (folder / "other.toml").exists()


def test_a_recipe_draws_another_model_for_the_next_charter(run) -> None:
    recipe = '[[first_model]]\ntensor = "w"\ndtype = "float32"\nshape = [2]\ndraw = "uniform"\nlow = 0.0\nhigh = 1.0\n'
    written = agree(jobs=[agreed_job(bytes(32))], first_model=f'"{"11" * 32}"', limits=recipe)  # type: ignore[arg-type]
    assert "[[first_model]]" in written
    code, out, _ = run("succeed", "charter.toml", "--out", "next.toml")
    assert code == 0
    assert "no round was released that is known here" in out
    assert "the recipe now draws" in out


def test_hand_over_signs_with_the_key_of_before(run, folder) -> None:
    agree()
    Identity.create("later.key")
    later = Identity.read("later.key").fingerprint
    assert run("succeed", "charter.toml", "--out", "next.toml", "--rotate", f"chuck={later}")[0] == 0
    code, out, err = run("hand-over", "next.toml", "--old", "charter.toml", "--key", "chuck.key")
    assert (code, err) == (0, "")
    assert "chuck hands over to" in out
    assert (folder / "next.sigs" / "chuck.handover").exists()
    for name in ("bob", "alice", "later"):
        assert run("sign", "next.toml", "--key", f"{name}.key", "--yes")[0] == 0
    code, out, _ = run("check", "next.toml")
    assert (code, "all owners have signed it" in out) == (0, True)
    old, new = (read_charter(folder / name) for name in ("charter.toml", "next.toml"))
    signed, handed = read_signatures(folder / "next.sigs"), read_hand_overs(folder / "next.sigs")
    check_successor(old, new=new, signatures=signed, hand_overs=handed)
    code, _, err = run("hand-over", "next.toml", "--old", "charter.toml", "--key", "bob.key")
    assert (code, "is still bob's" in err) == (1, True)
