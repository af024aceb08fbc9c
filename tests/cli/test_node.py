"""``cloister node``: new, check, and what serve says when it cannot."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cloister.cli.node import _print_sessions, app
from cloister.net.identity import Identity
from cloister.node.confinement import Means, means
from cloister.node.running import Account

run = CliRunner().invoke
CONFIGURATION = """
name = "bob"
listen = "127.0.0.1:{port}"
identity = "bob.key"
[[data_sets]]
tags = ["#mri", "#x"]
file = "mri.npz"
tensor = "x"
[[data_sets]]
tags = ["#mri", "#y"]
file = "mri.npz"
tensor = "y"
unsafe_interactive = true
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.savez(tmp_path / "mri.npz", x=np.ones(3), y=np.ones(3))
    (tmp_path / "node.toml").write_text(CONFIGURATION.format(port=0))
    return tmp_path


def test_what_an_executor_says_it_does_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    forged = "add\x1b[2J\u202e"
    _print_sessions([Account(1, forged, "sha256:00", "2026-01-01T00:00:00+00:00", 0.0, 0.0, 0, 0, forged)])
    out = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in out)
    assert "x1b" in out


def test_new_writes_a_file_and_never_over_one(tmp_path: Path) -> None:
    file = tmp_path / "bob.toml"
    done = run(app, ["new", str(file)])
    assert done.exit_code == 0, done.output
    assert "cloister node check" in done.output
    before = file.read_text()
    done = run(app, ["new", str(file)])
    assert done.exit_code == 2
    assert "not overwritten" in done.output
    assert file.read_text() == before
    assert run(app, ["new", str(tmp_path / "nowhere" / "node.toml")]).exit_code == 2


def test_new_writes_node_toml_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(app, ["new"]).exit_code == 0
    assert (tmp_path / "node.toml").exists()


def test_check_shows_what_the_node_would_be(folder: Path) -> None:
    identity = Identity.create(folder / "bob.key")
    done = run(app, ["check", str(folder / "node.toml")])
    assert done.exit_code == 0, done.output
    assert identity.fingerprint in done.output
    assert "#mri #x" in done.output
    assert "closed to interactive use" in done.output
    assert "OPEN to interactive use (unsafe)" in done.output
    assert f"executors   confined by {means()}" in done.output
    assert "in order" in done.output


def test_an_owner_hears_what_does_not_confine_executors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Identity.create(folder / "bob.key")
    monkeypatch.setattr("cloister.cli.node.means", lambda: Means(landlock=0, seccomp=True))
    done = run(app, ["check", str(folder / "node.toml")])
    assert done.exit_code == 0, done.output
    assert "confined by no_new_privs, seccomp; NOT by Landlock" in done.output


def test_check_lists_the_faults_of_all_files(folder: Path) -> None:
    np.savez(folder / "mri.npz", x=np.array([{}]), z=np.ones(3))
    done = run(app, ["check", str(folder / "node.toml")])
    assert done.exit_code == 2
    assert "identity: there is no identity" in done.output
    assert "data_sets[0]" in done.output
    assert "Python objects" in done.output
    assert "data_sets[1]" in done.output
    assert "holds no tensor 'y'" in done.output


def test_a_node_that_names_itself(folder: Path) -> None:
    identity = Identity.create(folder / "bob.key")
    with (folder / "node.toml").open("a") as file:
        file.write(f'[[workers]]\nname = "me"\nfingerprint = "{identity.fingerprint}"\n')
    done = run(app, ["check", str(folder / "node.toml")])
    assert done.exit_code == 2
    assert "own key" in done.output


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_missing_file(tmp_path: Path, command: str) -> None:
    done = run(app, [command, str(tmp_path / "node.toml")])
    assert done.exit_code == 2
    assert "cloister node new" in done.output


def test_an_address_in_use(folder: Path) -> None:
    Identity.create(folder / "bob.key")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        taken_port = taken.getsockname()[1]
        (folder / "node.toml").write_text(CONFIGURATION.format(port=taken_port))
        done = run(app, ["serve", str(folder / "node.toml")])
    assert done.exit_code == 2
    assert f"cannot listen on 127.0.0.1:{taken_port}: Address already in use" in done.output
    assert "(" not in done.output.partition("cannot listen")[2]  # no address as Python writes it


def test_an_address_that_is_not_this_machines(folder: Path) -> None:
    Identity.create(folder / "bob.key")
    text = CONFIGURATION.format(port=7443).replace("127.0.0.1:7443", "[2001:db8::7]:7443")
    (folder / "node.toml").write_text(text)
    done = run(app, ["serve", str(folder / "node.toml")])
    assert done.exit_code == 2
    assert "cannot listen on [2001:db8::7]:7443: " in done.output


def test_sessions_of_a_node_that_does_not_run(folder: Path) -> None:
    for arguments in ([], ["--json"], ["--end", "3"]):
        done = run(app, ["sessions", str(folder / "node.toml"), *arguments])
        assert done.exit_code == 2
        assert f"no node runs here: nobody listens at {folder / 'bob.sock'}" in done.output
        assert "cloister node serve" in done.output
