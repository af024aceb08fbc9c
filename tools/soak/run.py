"""One soak: the study, the blows that befall it, and what is left afterwards."""

from __future__ import annotations

import heapq
import itertools
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import IO, Final

import numpy as np

from cloister.errors import CloisterError
from cloister.testing.studies import LocalColumns, LocalStudy
from tools.soak import job
from tools.soak.checks import Account, account
from tools.soak.plan import AGGREGATOR, RESEARCHER, Blow, planned
from tools.soak.relay import Relay
from tools.soak.sampling import Sampler, Trend, children

OWNERS: Final = ("alice", "bob", "carol", "dave", "erin")
SPARED: Final = "alice"
HALT_S: Final = 300.0
"""A study that releases nothing for so long has halted."""
_READY_S: Final = 120.0


class HaltedError(Exception):
    """No round was released for ``HALT_S``."""


@dataclass(frozen=True)
class Settings:
    """One run: the same settings give the same blows."""

    rounds: int
    seed: int
    owners: int = 5
    floor: int = 2
    rate: float = 0.16
    silence_s: tuple[float, float] = (0.2, 5.0)
    every: int = 5
    """Samples are taken after so many rounds."""


@dataclass
class Outcome:
    """What came of a run. ``faults`` is empty where all is as it has to be."""

    settings: Settings
    rounds: int = 0
    seconds: float = 0.0
    dealt: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    """Blows to who was away already."""
    cut: int = 0
    """Connections that were cut."""
    trends: list[Trend] = field(default_factory=list)
    records_kib: list[tuple[int, int]] = field(default_factory=list)
    """The size of the spared owner's records after so many rounds, in KiB."""
    account: Account | None = None
    longest_s: tuple[float, int] = (0.0, 0)
    """The longest time between two releases, and the rounds before it."""
    faults: list[str] = field(default_factory=list)


def soak(folder: Path, settings: Settings, *, say: Callable[[str], None] = print) -> Outcome:
    """Runs a study in ``folder``, and looks at what it left behind.

    Raises:
        HaltedError: it released nothing for ``HALT_S``; logs and records are left as they are.
    """
    with _Soak(folder, settings, say) as running:
        running.run()
        outcome = running.outcome
    logs = {name: running.study.log(name) for name in (AGGREGATOR, *running.owners)}
    chain = (folder / "charter.toml").with_suffix(".rounds") / "chain.jsonl"
    instances = [file.read_text(encoding="utf-8") for file in sorted(folder.glob(f"{AGGREGATOR}.*.log"))]
    outcome.account, faults = account(folder, running.study.charter, chain, instances=instances)
    outcome.faults += faults
    outcome.faults += [f"{name} said: {line}" for name, log in logs.items() for line in _alarming(log)]
    if outcome.account.open:
        outcome.faults.append(f"rounds are open although all owners answered later ones: {outcome.account.open}")
    if outcome.account.released != settings.rounds + job.LAST:
        outcome.faults.append(
            f"{outcome.account.released} rounds are released, and {settings.rounds + job.LAST} wanted"
        )
    outcome.trends = list(running.sampler.trends())
    outcome.faults += [f"{each.role} grows" for each in outcome.trends if not each.flat]
    return outcome


def _alarming(log: str) -> list[str]:
    return [
        line for line in log.splitlines() if line.startswith("Traceback") or " ERROR" in line or " CRITICAL" in line
    ]


class _Soak:
    def __init__(self, folder: Path, settings: Settings, say: Callable[[str], None]) -> None:
        self.owners = OWNERS[: settings.owners]
        self.outcome = Outcome(settings)
        self.sampler = Sampler()
        self._folder, self._settings, self._say = folder, settings, say
        self._open = ExitStack()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._away: dict[str, int] = {}
        """Who was killed or ended, and by which round of the job it comes back; 0: by a time."""
        self._stopped: dict[str, list[int]] = {}
        self._heard: queue.Queue[str] = queue.Queue()
        self._researcher: subprocess.Popen[str] | None = None
        self._done = False
        self._numbers: set[int] = set()
        data = {name: [LocalColumns(self._rows(name), job.COLUMNS, (job.TAG,))] for name in self.owners}
        self.study = LocalStudy(
            folder,
            data,
            jobs=job.agreed(settings.rounds),
            limits=job.limits(rounds=settings.rounds, floor=settings.floor),
        )
        self._blows = planned(
            settings.seed,
            rounds=settings.rounds,
            owners=self.owners,
            spared=SPARED,
            rate=settings.rate,
            silence_s=settings.silence_s,
        )

    def _rows(self, name: str) -> Path:
        drawn = np.random.default_rng(OWNERS.index(name))
        x = drawn.standard_normal((job.ROWS, 4), np.float32)
        np.savez(self._folder / f"{name}.npz", x=x, y=(x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0))
        return self._folder / f"{name}.npz"

    def __enter__(self) -> _Soak:
        self._open.enter_context(self.study)
        self._open.callback(self._end_researcher)
        self._open.callback(self._wake)
        try:
            self.study.start_aggregator()
            (route,) = self.study.routes.values()
            self._relays = {name: self._open.enter_context(Relay(route)) for name in (*self.owners, RESEARCHER)}
            for name in self.owners:
                self.study.detour(name, self._relays[name].address)
            self.study.start()
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def run(self) -> None:
        """Until the job is done, and the last rounds after it."""
        began = self._since = monotonic()
        self._start_researcher()
        while not self._done:
            self._step()
        self.outcome.seconds = monotonic() - began
        self._all_back()
        self._done = False
        assert self._researcher is not None
        assert self._researcher.stdin is not None
        self._researcher.stdin.write("\n")
        self._researcher.stdin.flush()
        while not self._done:
            self._step()
        self._researcher.wait(_READY_S)
        last = max(self._numbers)
        for name in self.owners:
            self.study.found(name, rf"(round {last} is released)", within_s=_READY_S)

    def _step(self) -> None:
        now = monotonic()
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()
        if now - self._since > HALT_S:
            raise HaltedError(f"nothing was released for {HALT_S:g} s after {self.outcome.rounds} rounds")
        until = min(self._due[0][0] if self._due else now + 1.0, now + 1.0)
        try:
            line = self._heard.get(timeout=max(0.0, until - monotonic()))
        except queue.Empty:
            self._check_researcher()
            return
        if line in ("done", "end"):
            self._done = True
        elif line.isdigit() and int(line) not in self._numbers:
            self._released(int(line))

    def _released(self, number: int) -> None:
        now, outcome = monotonic(), self.outcome
        self._numbers.add(number)
        outcome.longest_s = max(outcome.longest_s, (now - self._since, outcome.rounds))
        self._since = now
        outcome.rounds += 1
        done = outcome.rounds
        for name in [name for name, back in self._away.items() if 0 < back <= done]:
            self._back(name)
        while self._blows and self._blows[0].round <= done:
            blow = self._blows.pop(0)
            self._at(blow.after_s, lambda blow=blow: self._deal(blow, done))
        if done % self._settings.every == 0:
            self._sample(done)
        if done % 50 == 0:
            dealt = sum(outcome.dealt.values())
            self._say(f"{done} rounds, the last one is {number}; {dealt} blows; longest {outcome.longest_s[0]:.0f} s")

    def _at(self, after_s: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._due, (monotonic() + after_s, next(self._order), do))

    # Blows

    def _deal(self, blow: Blow, done: int) -> None:
        who = [name for name in blow.who if name not in self._away and name not in self._stopped]
        if not who or self._done:
            self.outcome.missed += 1
            return
        self.outcome.dealt[blow.kind] += 1
        match blow.deed:
            case "cut":
                self.outcome.cut += sum(self._relays[name].cut() for name in who)
            case "stop":
                for name in who:
                    self._stop(name)
                    self._at(blow.lasts_s, lambda name=name: self._go_on(name))
            case "kill" | "end":
                for name in who:
                    self._kill(name, gently=blow.deed == "end")
                    self._away[name] = done + blow.lasts_rounds if blow.lasts_rounds else 0
                    if not blow.lasts_rounds:
                        self._at(blow.lasts_s, lambda name=name: self._back(name))

    def _stop(self, name: str) -> None:
        pid = self.study.pid(name)
        self._stopped[name] = [pid, *children(pid)]
        self._signal(name, signal.SIGSTOP)

    def _go_on(self, name: str) -> None:
        self._signal(name, signal.SIGCONT)
        self._stopped.pop(name, None)

    def _signal(self, name: str, number: signal.Signals) -> None:
        for pid in self._stopped.get(name, ()):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _wake(self) -> None:
        for name in list(self._stopped):
            self._go_on(name)

    def _kill(self, name: str, *, gently: bool) -> None:
        if name == RESEARCHER:
            self._end_researcher()
        elif gently:
            self.study.end(name)
        else:
            self.study.kill(name)

    def _back(self, name: str) -> None:
        if self._away.pop(name, None) is None:
            return
        if name == RESEARCHER:
            self._start_researcher()
        elif name == AGGREGATOR:
            self.study.start_aggregator()
        else:
            self.study.start(name)

    def _all_back(self) -> None:
        """Has everybody there again, and waits until the aggregator says so."""
        self._due.clear()
        self._wake()
        for name in list(self._away):
            self._back(name)
        until = monotonic() + _READY_S
        while True:
            with suppress(CloisterError):
                status = self.study.study(state=self._folder / "asking").status()
                if all(owner.doing != "away" for owner in status.owners):
                    return
            if monotonic() > until:
                raise HaltedError("not all owners came back")
            sleep(0.5)

    # The researcher

    def _start_researcher(self) -> None:
        lives = len(list(self._folder.glob(f"{RESEARCHER}.*.log")))
        command = [sys.executable, "-m", "tools.soak.researcher", str(self._folder), self._relays[RESEARCHER].address]
        with (self._folder / f"{RESEARCHER}.{lives + 1}.log").open("w", encoding="utf-8") as log:
            self._researcher = subprocess.Popen(
                [*command, str(self._settings.rounds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._researcher.stdout is not None
        threading.Thread(target=self._listen, args=(self._researcher.stdout,), daemon=True).start()

    def _listen(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                if line.endswith("\n"):  # else it was killed within the line
                    self._heard.put(line.strip())

    def _check_researcher(self) -> None:
        """A script that ended by itself is a fault: it is started again, and told of."""
        if self._researcher is None or RESEARCHER in self._away or self._done or not self._heard.empty():
            return
        if (code := self._researcher.poll()) is not None:
            last = max(self._folder.glob(f"{RESEARCHER}.*.log"), key=lambda file: file.stat().st_mtime)
            end = last.read_text(encoding="utf-8")[-2000:]
            self.outcome.faults.append(f"the researcher's script ended with {code} after {self.outcome.rounds}: {end}")
            self._end_researcher()
            self._start_researcher()

    def _end_researcher(self) -> None:
        if self._researcher is None:
            return
        self._researcher.kill()
        self._researcher.wait()
        if self._researcher.stdin is not None:
            with suppress(OSError):
                self._researcher.stdin.close()

    # Samples

    def _sample(self, done: int) -> None:
        for name in (AGGREGATOR, *self.owners):
            if name not in self._away and self.study.running(name):
                self.sampler.take(name, self.study.pid(name), number=done)
        if self._researcher is not None and RESEARCHER not in self._away:
            self.sampler.take(RESEARCHER, self._researcher.pid, number=done)
        state = self._folder / f"{SPARED}.state"
        size = 0
        for file in state.rglob("*"):
            with suppress(OSError):  # an old model that is being removed
                size += file.stat().st_size
        self.outcome.records_kib.append((done, size >> 10))
