"""What processes hold, as the kernel counts it: memory, threads, descriptors; and whether that grows."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

WARM_UP: Final = 20
"""The rounds of a process's life that do not count: what it loads late is no growth."""
GROWTH: Final = 1.05
SLACK_KIB: Final = 8 << 10
SLACK_COUNT: Final = 2
HISTORY_KIB: Final = 8
"""What a round of five owners may leave in memory: its record, who was in it, what was signed (measurements.md)."""


@dataclass(frozen=True)
class Sample:
    """One process after ``round`` rounds of the job. ``role`` says which one it is; ``age`` are the rounds since it
    was seen first."""

    round: int
    role: str
    pid: int
    age: int
    rss_kib: int
    threads: int
    descriptors: int


@dataclass(frozen=True)
class Trend:
    """The medians of a role's first and last quarter of samples, without those of young processes."""

    role: str
    samples: int
    lives: int
    rounds: tuple[float, float]
    rss_kib: tuple[float, float]
    threads: tuple[float, float]
    descriptors: tuple[float, float]
    longest: tuple[int, int]
    """Of the process that lived longest: its rounds after the warm-up, and by how many KiB it grew in them, as the
    medians of its own first and last quarter."""

    @property
    def flat(self) -> bool:
        """Whether neither grew: memory by 5 %, 8 MiB and the history at most, threads and descriptors by two."""
        history = HISTORY_KIB * (self.rounds[1] - self.rounds[0])
        counts = (self.threads, self.descriptors)
        return self.rss_kib[1] <= self.rss_kib[0] * GROWTH + SLACK_KIB + history and all(
            last <= first + SLACK_COUNT for first, last in counts
        )


class Sampler:
    """Takes samples of processes and of their children."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._seen: dict[tuple[str, int], int] = {}

    def take(self, role: str, pid: int, *, number: int) -> None:
        """One sample of a process, and of each child of it under the role's name with ``+``."""
        self._take(role, pid, number)
        for child in children(pid):
            self._take(f"{role}+", child, number)

    def _take(self, role: str, pid: int, number: int) -> None:
        try:
            fields = dict(
                line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
            )
            rss, threads = int(fields["VmRSS"].split()[0]), int(fields["Threads"])
            descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        except (OSError, KeyError):  # it has just ended
            return
        first = self._seen.setdefault((role, pid), number)
        self.samples.append(Sample(number, role, pid, number - first, rss, threads, descriptors))

    def trends(self) -> Iterator[Trend]:
        """Role by role; a role of which there are too few samples has none."""
        for role in sorted({each.role for each in self.samples}):
            old = [each for each in self.samples if each.role == role and each.age >= WARM_UP]
            if len(old) >= 8:
                yield _trend(role, old)


def _trend(role: str, samples: Sequence[Sample]) -> Trend:
    def medians(field: str, of: Sequence[Sample] = samples) -> tuple[float, float]:
        values = [getattr(each, field) for each in of]
        quarter = max(1, len(values) // 4)
        return statistics.median(values[:quarter]), statistics.median(values[-quarter:])

    lives = {each.pid: [other for other in samples if other.pid == each.pid] for each in samples}
    longest = max(lives.values(), key=lambda life: life[-1].age)
    first, last = medians("rss_kib", longest)
    return Trend(
        role,
        len(samples),
        len(lives),
        medians("round"),
        medians("rss_kib"),
        medians("threads"),
        medians("descriptors"),
        (longest[-1].age - longest[0].age, round(last - first)),
    )


def children(pid: int) -> list[int]:
    """The processes that a process has started and not waited for."""
    try:
        return [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text(encoding="ascii").split()
        ]
    except OSError:
        return []
