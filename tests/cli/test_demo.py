"""``cloister demo``, run as a user runs it."""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cloister
from cloister.cli import main
from tests.support.processes import children, descendants, running, wait_until

SOURCES = Path(cloister.__file__).parents[1]
ENDED_S = 100.0
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


class Demo:
    """The demonstration, running. Whatever it leaves behind becomes a child of this process, where it is seen."""

    def __init__(self, folder: Path, rounds: int) -> None:
        self.folder = folder
        self._before = children(os.getpid())
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cloister", "demo", "--rounds", str(rounds), "--keep", str(folder)],
            env={**os.environ, "PYTHONPATH": str(SOURCES), "COLUMNS": "120", "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a process group of its own, as a terminal gives it
        )

    def read_until(self, text: str) -> str:
        """What it says up to the line that holds ``text``."""
        assert self.process.stdout is not None
        said = ""
        for line in self.process.stdout:
            said += line
            if text in line:
                break
        return said

    def interrupt(self) -> tuple[int, str]:
        """Ctrl-C: a SIGINT to every process of the group. Returns the exit code, and all that is said from then on."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.end()

    def end(self) -> tuple[int, str]:
        out, err = self.process.communicate(timeout=ENDED_S)
        return self.process.returncode, out + err

    def left(self) -> set[int]:
        """The processes that are still there of those that were started."""
        adopted = children(os.getpid()) - self._before
        return running(adopted.union(*map(descendants, adopted)))

    def close(self) -> None:
        """Kills whatever is left."""
        self._libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        for pid in self.left():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[[int], Demo]]:
    started: list[Demo] = []

    def start(rounds: int) -> Demo:
        started.append(Demo(tmp_path / "kept", rounds))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.mark.e2e
@pytest.mark.slow
def test_it_trains_compares_attacks_audits_and_leaves_nothing_behind(demo: Callable[[int], Demo]) -> None:
    running_demo = demo(2)
    code, said = running_demo.end()
    assert code == 0, said
    for name in ("north", "harbour", "hill"):
        assert f"{name}: verified: simulated TEE (proves nothing), software" in said
        assert re.search(rf"{name} alone\W+\d+\.\d%", said)
        assert re.search(rf"owner +{name}: contributed to 2, committed [012]", said)
    for refusal in (
        "the aggregator refuses: the job is refused: its plan is ",
        "north, harbour and hill refuse: genuine, but not acceptable: aggregator: measurement is",
        "north, harbour and hill refuse: round 2 comes after round 3: a number is used once",
        "north, harbour and hill refuse: the job is refused: its plan is ",
        "2 released, of 2 in all",
    ):
        assert refusal in said
    assert re.search(r"the federation: .* \d\d\.\d%", said)  # after two rounds it is the noise that says how much
    assert re.search(r"privacy +of one record of hill: epsilon [01]\.\d+ at delta 1e-05", said)
    assert re.search(r"all data pooled\D+9\d\.\d%", said)
    assert "2/2" in said
    assert "Traceback" not in said
    assert wait_until(lambda: not running_demo.left(), within_s=ENDED_S), running_demo.left()
    (command,) = re.findall(r"^  cloister (ledger audit .*)$", said, re.MULTILINE)
    with pytest.raises(SystemExit) as caught:
        main(shlex.split(command))
    assert not caught.value.code


def _when_it_has_spoken(running_demo: Demo) -> None:
    running_demo.read_until("cloister demo")


def _while_the_aggregator_starts(running_demo: Demo) -> None:
    log = running_demo.folder / "aggregator.1.log"
    assert wait_until(log.exists, within_s=ENDED_S)


def _while_nodes_start(running_demo: Demo) -> None:
    log = running_demo.folder / "hill.1.log"
    assert wait_until(log.exists, within_s=ENDED_S)


def _while_trainees_start(running_demo: Demo) -> None:
    log = running_demo.folder / "hill.1.log"
    assert wait_until(lambda: log.exists() and "training on" in log.read_text(), within_s=ENDED_S)


def _while_it_trains(running_demo: Demo) -> None:
    log = running_demo.folder / "hill.1.log"
    assert wait_until(lambda: log.exists() and "is released" in log.read_text(), within_s=ENDED_S)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [_when_it_has_spoken, _while_the_aggregator_starts, _while_nodes_start, _while_trainees_start, _while_it_trains],
    ids=lambda moment: moment.__name__.strip("_"),
)
def test_ctrl_c_leaves_nothing_behind(demo: Callable[[int], Demo], moment: Callable[[Demo], None]) -> None:
    running_demo = demo(1000)
    moment(running_demo)
    code, said = running_demo.interrupt()
    assert code == 130, said
    assert "Traceback" not in said
    assert wait_until(lambda: not running_demo.left(), within_s=ENDED_S), running_demo.left()


def test_rounds_are_at_least_one() -> None:
    import typer

    from cloister.cli.demo import demo as command

    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, ["--rounds", "0"])
    assert done.exit_code == 2
    assert "rounds" in done.output
