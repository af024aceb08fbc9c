"""A few rounds of a soak (``python -m tools.soak``), whose processes are killed and cut off by a fixed seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.soak.run import Settings, soak

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
SETTINGS = Settings(rounds=14, seed=2562, owners=3, rate=0.4, silence_s=(0.2, 1.0))
"""With this seed each of the three is killed at once after one of the first rounds, while nobody else is away: whatever
the machine's pace, none of these blows comes after the last round or meets nobody."""


def test_every_round_is_accounted_for(tmp_path: Path) -> None:
    outcome = soak(tmp_path, SETTINGS, say=lambda text: None)
    assert outcome.faults == []
    assert {"kill the aggregator", "kill the researcher", "kill an owner"} <= outcome.dealt.keys()
