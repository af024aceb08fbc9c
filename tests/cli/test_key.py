"""`cloister key`: what a person sees who makes, shows and renews a key."""

from __future__ import annotations

import re
import stat

import pytest

from cloister.cli import main
from cloister.net.identity import Identity


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Runs a command and returns its exit code, output and complaints."""

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(words)
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    return run


@pytest.mark.slow
def test_new_makes_a_key_and_says_what_to_do_with_it(run, folder):
    code, out, err = run("key", "new")
    assert (code, err) == (0, "")
    identity = Identity.load(folder / "me.key")
    assert stat.S_IMODE((folder / "me.key").stat().st_mode) == 0o600
    assert identity.algorithm == "ed25519"
    assert f"fingerprint  {identity.fingerprint}\n" in out
    assert "Give the fingerprint to those you work with" in out
    assert "PRIVATE" not in out


def test_new_with_everything_said(run):
    code, out, _ = run("key", "new", "bob.key", "--days", "10", "--algorithm", "p256")
    identity = Identity.load("bob.key")
    assert code == 0
    assert identity.algorithm == "p256"
    assert (identity.not_after - identity.not_before).days == 10
    assert "(in 9 days: `cloister key renew`)" in out


def test_new_overwrites_nothing(run, folder):
    run("key", "new")
    before = (folder / "me.key").read_bytes()
    code, out, err = run("key", "new")
    assert (code, out) == (1, "")
    assert "exists and is not overwritten" in err
    assert (folder / "me.key").read_bytes() == before


def test_new_in_a_folder_that_is_not_there(run):
    code, _, err = run("key", "new", "none/me.key")
    assert code == 1
    assert "there is no folder none to put me.key in" in err


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--days", "0"], ["--days", "soon"], ["--algorithm", "rsa"], ["a", "b"]])
def test_wrong_usage(run, folder, words):
    code, _, err = run("key", "new", *words)
    assert code == 2
    assert "Usage: cloister key new" in err
    assert not list(folder.iterdir())


def test_show_prints_the_same_fingerprint(run):
    _, made, _ = run("key", "new")
    code, shown, _ = run("key", "show", "me.key")
    assert code == 0
    assert re.findall(r"sha256:\S+", made) == re.findall(r"sha256:\S+", shown)


def test_show_says_what_is_wrong(run, folder):
    code, _, err = run("key", "show", "none.key")
    assert code == 1
    assert "there is no identity at none.key: `cloister key new none.key` makes one" in err.replace("\n", " ")
    run("key", "new")
    (folder / "me.key").chmod(0o644)
    code, _, err = run("key", "show", "me.key")
    assert code == 1
    assert "chmod 600 me.key" in err


def test_renew_keeps_the_fingerprint(run):
    run("key", "new", "--days", "1")
    old = Identity.load("me.key")
    code, out, _ = run("key", "renew", "me.key", "--days", "100")
    new = Identity.load("me.key")
    assert code == 0
    assert new.fingerprint == old.fingerprint
    assert new.fingerprint in out
    assert new.not_after > old.not_after
