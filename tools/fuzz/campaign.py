"""Sessions in forked children, and what became of them.

A child takes the session's steps twice, over memory that is filled with one byte and with another: what then differs
was never written (``leak``). A child that dies of a signal is a ``crash``; one that spends ``CPU_SECONDS`` on a step,
or sleeps, a ``hang``. What a child is about to do stands in a file that its parent reads when it is gone.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from cloister.node.confinement import limit_memory
from tools.fuzz.fence import Fence
from tools.fuzz.sessions import Caller, Steps
from tools.fuzz.steps import Step, name_of
from tools.fuzz.valid import Valid
from tools.fuzz.watching import Fault, Watched

CPU_SECONDS = 5.0
WALL_SECONDS = 120.0
PRIVATE_BYTES = 1 << 30
FILLS = (0x55, 0xAA)

Source = Callable[[Watched], Steps]


@dataclass(frozen=True)
class Finding:
    """A fault, and the steps that lead to it."""

    kind: str
    op: str
    text: str
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        lines = "\n".join(f"    {json.dumps(step)}" for step in self.steps)
        return f"{self.kind}  {self.op}  {self.text}\n{lines}"


@dataclass
class Tally:
    """What was tried: calls, and those accepted, by operation; how they were answered."""

    calls: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    sessions: int = 0

    def count(self, step: Step, outcome: str) -> None:
        if step[0] == "call" and outcome != "unsayable":
            self.calls[step[1]] += 1
            self.accepted[step[1]] += outcome == "ok"
            self.outcomes[outcome] += 1


class Campaign:
    """Sessions drawn from a seed."""

    def __init__(
        self, fence: Fence, valid: Valid, names: Sequence[str], *, seed: int, passed_over: frozenset[str] = frozenset()
    ) -> None:
        self._fence, self._valid, self._names, self._seed = fence, valid, list(names), seed
        self._passed_over = passed_over
        random.Random(f"order {seed}").shuffle(self._names)  # noqa: S311 - to be drawn again, not to be secret
        self.tally = Tally()
        warm = Watched(Fence(None))  # what PyTorch imports when it first works out a shape, children have from here
        for step in (["put", 1, "float32", [2], 1], ["call", "aten::add.Tensor", [1, 1], {}, [2], None]):
            warm.do(step)

    def sessions(
        self, numbers: Sequence[int], calls: int, *, without: frozenset[str] = frozenset()
    ) -> tuple[int, Finding | None]:
        """The sessions of these numbers, up to the first in which something is found.

        Each is of so many calls, of the next operations in turn; those ``without`` are left out. How many there were,
        and what was found.
        """
        names = [name for name in self._names if name not in without]

        def source(number: int, session: Watched) -> Steps:
            draw = random.Random(f"{self._seed} {number}")  # noqa: S311
            torch.manual_seed(draw.randrange(2**63))
            return Caller(session, draw, self._valid, names).steps(number * calls, calls)

        before = self.tally.sessions
        finding = self._played([partial(source, number) for number in numbers], self.tally)
        return self.tally.sessions - before, finding

    def again(self, steps: Sequence[Step]) -> Finding | None:
        """These very steps."""

        def source(session: Watched) -> Steps:
            yield from (step for step in steps)  # as a generator, which takes answers: it has no use for them

        return self._played([source], Tally())

    def _played(self, sources: Sequence[Source], tally: Tally) -> Finding | None:
        log = os.memfd_create("fuzz")
        try:
            child = os.fork()
            if child == 0:
                _live(self._fence, sources, log, self._passed_over)
            died = _ended(child, log)
            return _finding(_read(log), died, tally)
        finally:
            os.close(log)


# In the child.


def _live(fence: Fence, sources: Sequence[Source], log: int, passed_over: frozenset[str]) -> None:
    """Takes each session's steps, twice; does not return."""

    def note(*line: Any) -> None:
        os.write(log, json.dumps(line).encode() + b"\n")

    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        warnings.simplefilter("ignore")
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        limit_memory(PRIVATE_BYTES, threads=1)
        for source in sources:
            note("session")
            fence.raise_(fill=FILLS[0], at_start=False)
            session = Watched(fence, passed_over=passed_over)
            taken = _take(source(session), session, note)
            fence.raise_(fill=FILLS[1], at_start=True)
            _take_again(taken, Watched(fence, passed_over=passed_over), note)
    except Fault as fault:
        note("fault", fault.kind, fault.text)
    except BaseException as fault:  # noqa: BLE001 - whatever it is, it is told, and this process ends here
        note("fault", "tool", repr(fault))
    finally:
        os._exit(0)


def _take(steps: Steps, session: Watched, note: Callable[..., None]) -> list[tuple[Step, tuple[str, str]]]:
    taken: list[tuple[Step, tuple[str, str]]] = []
    outcome: Any = None
    while True:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            step = steps.send(outcome)
        except StopIteration:
            return taken
        note("do", step)
        seen = session.do(step)
        note("did", outcome := seen[0])
        taken.append((step, seen))


def _take_again(taken: Sequence[tuple[Step, tuple[str, str]]], session: Watched, note: Callable[..., None]) -> None:
    for at, (step, (outcome, digest)) in enumerate(taken):
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        note("again", at)
        seen, other = session.do(step)
        if seen != outcome:
            raise Fault("leak", f"answered with {outcome}, and over other memory with {seen}")
        if other != digest:
            raise Fault("leak", "the result depends on memory that nobody wrote")


# In the parent.


def _ended(child: int, log: int) -> str:
    """How a child ended, the name of a signal or nothing; one that has said nothing for long is ended."""
    descriptor, said = os.pidfd_open(child), -1
    try:
        while not select.select([descriptor], [], [], WALL_SECONDS)[0]:
            said, before = os.fstat(log).st_size, said
            if said == before:
                os.kill(child, signal.SIGKILL)
                break
        _, status = os.waitpid(child, 0)
    finally:
        os.close(descriptor)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else ""


def _read(log: int) -> list[list[Any]]:
    os.lseek(log, 0, os.SEEK_SET)
    with os.fdopen(os.dup(log), "rb") as file:
        lines = file.read().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def _finding(lines: Sequence[list[Any]], died: str, tally: Tally) -> Finding | None:
    steps: list[Step] = []
    last, fault = 0, None
    for line in lines:
        match line:
            case ["session"]:
                tally.sessions += 1
                steps, last = [], 0
            case ["do", step]:
                steps.append(step)
                last = len(steps)
            case ["did", outcome]:
                tally.count(steps[-1], outcome)
            case ["again", at]:
                last = at + 1
            case ["fault", kind, text]:
                fault = (kind, text)
    if lines and lines[-1][0] == "do":
        tally.count(steps[-1], died or "fault")
    if died:
        fault = ("hang" if died in ("SIGPROF", "SIGKILL") else "crash", died)
    if fault is None:
        return None
    return Finding(fault[0], name_of(steps[last - 1]) if steps else "", fault[1], tuple(steps[:last]))
