"""The command line as a whole: quick to answer, and errors are sentences and exit codes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import cloister
from cloister.cli import main
from cloister.errors import ConfigurationError, RemoteOpError, UnreachableError


def run(capsys, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(words)
    out, err = capsys.readouterr()
    return caught.value.code or 0, out, err


def test_help_lists_every_noun(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(noun in out for noun in ("demo", "key", "node", "version"))


@pytest.mark.slow
def test_help_loads_no_noun_and_no_torch():
    program = """
import sys
from cloister.cli import main
try:
    main(["--help"])
except SystemExit:
    print(*sorted(sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert "cloister.cli.main" in loaded
    assert not loaded & {"torch", "numpy", "cryptography", "msgspec", "cloister.cli.key", "cloister.cli.node"}


def test_without_a_word_there_is_help(capsys):
    code, out, _ = run(capsys)
    assert code == 2
    assert "Usage: cloister" in out


@pytest.mark.parametrize("words", [["kye"], ["--nonsense"], ["key", "nwe"]])
def test_wrong_usage(capsys, words):
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "Usage: cloister" in err


def test_version(capsys):
    code, out, _ = run(capsys, "version")
    assert code == 0
    assert f"cloister     {cloister.__version__}\n" in out


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (ConfigurationError("node.toml is not there"), 1),
        (RemoteOpError("aten::mm failed"), 1),
        (UnreachableError("bob.example:7443 is asleep [/red]"), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_are_sentences_and_exit_codes(capsys, monkeypatch, fault, code):
    def fail() -> None:
        raise fault

    monkeypatch.setattr(sys.modules["cloister.cli.main"], "show_version", fail)
    assert run(capsys, "version") == (code, "", f"cloister: {fault}\n" if str(fault) else "")


def test_what_is_missing_is_named(capsys, monkeypatch):
    def absent(app, name, about):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    module = sys.modules["cloister.cli.main"]
    monkeypatch.setitem(module.NOUNS, "demo", module.NOUNS["demo"]._replace(add=absent))
    code, _, err = run(capsys, "demo")
    assert code == 1
    assert "pip install 'cloister[torch]'" in err


def test_the_script_that_pip_installs_points_here():
    assert main.__module__ == "cloister.cli.main"


def test_help_says_all_that_was_written() -> None:
    """What stands in square brackets is markup to the printer of help pages, which leaves it out."""
    for file in (Path(cloister.__file__).parent / "cli").glob("*.py"):
        for text in re.findall(r'help="([^"]*)"', file.read_text(encoding="utf-8")):
            assert "[" not in text, f"{file.name}: {text}"
