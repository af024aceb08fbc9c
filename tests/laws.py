"""On how many examples laws are tried: two profiles of hypothesis, ``dev`` and ``ci``.

The environment's ``HYPOTHESIS_PROFILE`` names one, as the Makefile has it: ``dev`` for `make unit`, ``ci`` for `make
test`; unset, it is ``dev``. Neither has a deadline: how long one example takes says something about the machine, and a
test that hangs is ended by its timeout.

``ci`` draws the same examples each time, so that its verdict is about a change and not about luck: what passed for a
tree once passes again, and a mutant that a law kills is killed. ``dev`` draws others in each run, and keeps those that
failed; as it runs many times a day, it is what finds something new.
"""

from __future__ import annotations

import os
from typing import Final

from hypothesis import settings

FEW: Final = 20
"""Examples of a law in ``dev``, at most."""

settings.register_profile("dev", max_examples=FEW, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)

PROFILE: Final = os.environ.get("HYPOTHESIS_PROFILE", "dev")
"""The one that is used."""


def examples(number: int) -> int:
    """For ``max_examples`` of a law that takes long: so many in ``ci``, and a few in ``dev``."""
    return min(number, FEW) if PROFILE == "dev" else number
