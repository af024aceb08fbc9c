"""Applies mutants to copies of a package's source, and runs the tests that have to fail of it."""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from time import monotonic
from typing import Final

from tools.mutants.inside import NOT_THE_COPY

_INSIDE: Final = Path(__file__).with_name("inside.py")
_PASSED, _FAILED = 0, 1
"""Exit statuses of pytest. The others say that it could not run the tests: that is no test that noticed."""
_LINES: Final = 12
"""How many of the last lines that pytest printed are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One change that breaks one promise."""

    name: str
    file: str
    """Below the package's folder."""
    old: str
    """The text that is replaced; it occurs once in the file."""
    new: str
    breaks: str
    """The promise that does not hold any more."""
    tests: tuple[str, ...]
    """The files or folders of unit tests, of which one has to fail."""


class Fate(Enum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "SURVIVED"
    LATE = "TOO LATE"
    """The tests were not done in time. It may be that they wait for what the mutant never does; a test says so."""
    NOT_RUN = "NOT RUN"
    """The tests could not be run, or not on the mutant."""
    RED = "RED"
    """Tests that fail without any mutant, so that they tell nothing."""


@dataclass(frozen=True, slots=True)
class Result:
    """How the tests of one mutant ended."""

    name: str
    fate: Fate
    seconds: float
    text: str
    """The end of what pytest printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What mutants are made of and tried by. The tree itself is only read.

    Args:
        root: the folder that the tests belong to. source: the folder in it that holds the package.
        within_s: how long the tests of one mutant may take, in seconds.
        marked: which tests count, as pytest's ``-m`` takes it.
    """

    root: Path
    source: str = "src"
    package: str = "cloister"
    within_s: float = 300.0
    marked: str = "not e2e"

    def stale(self, mutants: Sequence[Mutant]) -> list[str]:
        """What is wrong with a list: mutants that do not fit the source, or name tests that are not there."""
        names = [mutant.name for mutant in mutants]
        found = [f"{name}: the name is there twice" for name in sorted(set(names)) if names.count(name) > 1]
        for mutant in mutants:
            found += [f"{mutant.name}: {fault}" for fault in self._faults(mutant)]
        return found

    def _faults(self, mutant: Mutant) -> Iterator[str]:
        file = self.root / self.source / self.package / mutant.file
        times = file.read_text().count(mutant.old) if file.is_file() else 0
        if not mutant.old:
            yield "it replaces nothing"
        elif times != 1:
            yield f"its text is {times} times in {mutant.file}, and has to be there once"
        if mutant.new == mutant.old:
            yield "it changes nothing"
        if not mutant.tests:
            yield "it names no tests"
        for test in mutant.tests:
            if not (self.root / test.partition("::")[0]).exists():
                yield f"there is no {test}"

    def run(self, mutants: Sequence[Mutant], *, jobs: int) -> Iterator[Result]:
        """Tries each mutant, ``jobs`` at a time, and yields what became of it as they end.

        Their tests are also run on a copy without a change, and come as ``RED`` if they fail there.
        """
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(jobs) as pool:
            at = Path(folder)
            whole = at / "whole"
            shutil.copytree(self.root / self.source, whole)
            compileall.compile_dir(whole, quiet=2)  # once, and not in each process of tests
            work = [pool.submit(self._unchanged, each, whole, at / f"test-{n}") for n, each in enumerate(tests)]
            work += [pool.submit(self._try, each, whole, at / f"mutant-{n}") for n, each in enumerate(mutants)]
            try:
                for done in as_completed(work):
                    if (result := done.result()) is not None:
                        yield result
            finally:
                pool.shutdown(cancel_futures=True)

    def _unchanged(self, test: str, whole: Path, folder: Path) -> Result | None:
        began = monotonic()
        status, text = self._tested(_copied(whole, folder), (test,), folder)
        shutil.rmtree(folder)
        return None if status == _PASSED else Result(test, Fate.RED, monotonic() - began, text)

    def _try(self, mutant: Mutant, whole: Path, folder: Path) -> Result:
        began = monotonic()
        copy = _copied(whole, folder)
        file = copy / self.package / mutant.file
        file.write_text(file.read_text().replace(mutant.old, mutant.new))
        status, text = self._tested(copy, mutant.tests, folder)
        shutil.rmtree(folder)
        fates = {None: Fate.LATE, _PASSED: Fate.SURVIVED, _FAILED: Fate.KILLED}
        return Result(mutant.name, fates.get(status, Fate.NOT_RUN), monotonic() - began, text)

    def _tested(self, copy: Path, tests: Sequence[str], folder: Path) -> tuple[int | None, str]:
        """Pytest's exit status, None if it took too long, and the last lines that it printed."""
        options = ["-x", "-q", "-m", self.marked, "-p", "no:cacheprovider", f"--basetemp={folder / 'tmp'}"]
        arguments = [sys.executable, str(_INSIDE), str(copy), self.package, *options, *tests]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment |= {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(copy), os.environ.get("PYTHONPATH", "")])),
            "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
            "HYPOTHESIS_PROFILE": "ci",  # the same examples each time: a mutant is not killed by luck
            "OMP_NUM_THREADS": "1",
        }
        with (folder / "printed").open("w+") as printed:
            try:
                done = subprocess.run(
                    arguments,
                    cwd=self.root,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=subprocess.STDOUT,
                    timeout=self.within_s,
                    check=False,
                )
                status: int | None = done.returncode
            except subprocess.TimeoutExpired:
                status = None
            printed.seek(0)
            lines = printed.read().splitlines()[-_LINES:]
        return status, "\n".join(lines)


def _copied(whole: Path, folder: Path) -> Path:
    """A copy of the source, with what was compiled of it: what is compiled says of which file, as it was when."""
    copy = folder / "src"
    shutil.copytree(whole, copy)
    return copy


__all__ = ["NOT_THE_COPY", "Bench", "Fate", "Mutant", "Result"]
