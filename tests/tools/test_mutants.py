"""The tool that breaks security's lines, on a package of three lines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tools.mutants.__main__ import main
from tools.mutants.listed import MUTANTS
from tools.mutants.running import Bench, Fate, Mutant

SOURCE = "def opens(key: int) -> bool:\n    return key == 7\n\n\ndef shuts() -> bool:\n    return True\n"
TESTS = """
from pretend import door

def test_the_key_opens():
    assert door.opens(7)

def test_no_other_does():
    assert not door.opens(8)
"""
LOCK = Mutant(
    name="any-key",
    file="door.py",
    old="return key == 7",
    new="return True",
    breaks="one key opens",
    tests=("tests/test_door.py",),
)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    package = tmp_path / "src" / "pretend"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "door.py").write_text(SOURCE)
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_door.py").write_text(TESTS)
    return Bench(root=tmp_path, package="pretend")


def test_the_list_fits_the_source() -> None:
    assert not Bench(root=Path(__file__).parents[2]).stale(MUTANTS)
    assert len(MUTANTS) >= 40


@pytest.mark.slow
def test_what_becomes_of_a_mutant(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """An error while tests are collected is no test that fails."""
    unnoticed = replace(LOCK, name="stays-open", old="return True", new="return False", breaks="it can be shut")
    no_python = replace(LOCK, name="no-python", new="return (")
    assert main([], mutants=[LOCK, unnoticed, no_python], bench=bench) == 1
    told = capsys.readouterr().out
    assert [line.split()[0] for line in told.splitlines() if line.endswith("any-key")] == ["killed"]
    assert "SURVIVED" in told
    assert "door.py: it can be shut" in told
    assert "NOT RUN" in told
    assert "1 of 3 mutants killed" in told
    assert (bench.root / "src/pretend/door.py").read_text() == SOURCE
    assert main([LOCK.name], mutants=[LOCK, unnoticed, no_python], bench=bench) == 0


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"old": "return key == 8"}, "its text is 0 times in door.py"),
        ({"old": "return"}, "its text is 2 times in door.py"),
        ({"old": ""}, "it replaces nothing"),
        ({"file": "window.py"}, "its text is 0 times in window.py"),
        ({"new": LOCK.old}, "it changes nothing"),
        ({"tests": ()}, "it names no tests"),
        ({"tests": ("tests/test_window.py",)}, "there is no tests/test_window.py"),
    ],
)
def test_an_entry_that_does_not_fit_is_stale(
    bench: Bench, capsys: pytest.CaptureFixture[str], changed: dict[str, object], why: str
) -> None:
    assert main([], mutants=[replace(LOCK, **changed)], bench=bench) == 2  # type: ignore[arg-type]
    assert f"any-key: {why}" in capsys.readouterr().out


def test_a_name_is_there_once(bench: Bench) -> None:
    assert bench.stale([LOCK, LOCK]) == ["any-key: the name is there twice"]


@pytest.mark.slow
def test_tests_that_fail_without_it_kill_nothing(bench: Bench) -> None:
    (bench.root / "tests/test_door.py").write_text("def test_never():\n    assert False\n")
    assert {result.fate for result in bench.run([LOCK], jobs=1)} == {Fate.RED, Fate.KILLED}


@pytest.mark.slow
def test_tests_that_take_too_long_kill_nothing(bench: Bench) -> None:
    (bench.root / "tests/test_door.py").write_text("import time\n\ndef test_it_waits():\n    time.sleep(60)\n")
    fates = {result.fate for result in replace(bench, within_s=0.1).run([LOCK], jobs=1)}
    assert fates == {Fate.RED, Fate.LATE}


@pytest.mark.slow
def test_what_is_tested_is_the_copy(bench: Bench) -> None:
    """A package that comes from somewhere else makes every mutant survive, or none: neither is believed."""
    elsewhere = replace(bench, package="json")  # the library's own is found first: the copy's holds no package
    (bench.root / "src/json").mkdir()
    (bench.root / "src/json/door.py").write_text(SOURCE)
    (result, *_) = [each for each in elsewhere.run([LOCK], jobs=1) if each.name == LOCK.name]
    assert result.fate is Fate.NOT_RUN
    assert "which is not in" in result.text
