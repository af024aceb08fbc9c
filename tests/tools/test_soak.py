"""What a soak deals out, and when it says that a process grows."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Final

from tools.soak.plan import AGGREGATOR, AGGREGATOR_SPELL, planned
from tools.soak.sampling import WARM_UP, Sample, Sampler

OWNERS: Final = ("alice", "bob", "carol")
SILENCE_S: Final = (0.2, 1.0)


def test_blows_are_a_function_of_the_seed() -> None:
    one, same, other = (
        planned(seed, rounds=400, owners=OWNERS, spared="alice", rate=0.5, silence_s=SILENCE_S) for seed in (1, 1, 2)
    )
    assert one == same != other
    assert not [blow for blow in one if "alice" in blow.who and blow.deed in ("kill", "end")]
    spells = {blow.round % AGGREGATOR_SPELL for blow in one if AGGREGATOR in blow.who and blow.deed == "kill"}
    assert max(spells) < AGGREGATOR_SPELL // 2


def test_growth_is_told_from_a_warm_up() -> None:
    sampler = Sampler()
    sampler.take("this", os.getpid(), number=1)
    (sample,) = [each for each in sampler.samples if each.role == "this"]
    assert sample.rss_kib > 1 << 10
    assert sample.threads >= 1
    assert sample.descriptors >= 3
    life = [replace(sample, age=age, rss_kib=(100 << 10) + 1000 * max(0, WARM_UP - age)) for age in range(100)]
    assert _flat(life)
    assert not _flat([replace(each, rss_kib=each.rss_kib + 300 * each.age) for each in life])
    assert not _flat([replace(each, descriptors=each.age // 20) for each in life])
    assert not _flat([replace(each, threads=each.age // 20) for each in life])
    assert not list(Sampler().trends())


def _flat(samples: list[Sample]) -> bool:
    sampler = Sampler()
    sampler.samples = samples
    (trend,) = sampler.trends()
    return trend.flat
