"""CPU time: limits held against readings, and the clock of a process that is really there."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from cloister.node.cpu import LEAST_S, Clock, Meter, Over


def meter(**changes: float) -> Meter:
    limits = {"call_s": 8.0, "all_s": 100.0, "began_s": 3.0}
    return Meter(**{**limits, **changes}, cores=2)  # type: ignore[arg-type]


def test_one_call_may_use_so_much() -> None:
    metered = meter()
    assert metered.look(3.0, call=1) is None
    assert metered.look(11.0, call=1) is None
    assert metered.look(11.1, call=1) is Over.CALL
    assert metered.used_s == pytest.approx(8.1)


def test_another_call_begins_anew() -> None:
    metered = meter()
    for call in range(1, 12):
        assert metered.look(3.0 + 8.0 * call, call=call) is None
    assert metered.used_s == 88.0


def test_all_calls_together_may_use_so_much() -> None:
    metered = meter()
    for call in range(1, 13):
        assert metered.look(3.0 + 8.0 * call, call=call) is None
    assert metered.look(103.1, call=13) is Over.ALL


def test_nobody_looks_before_a_limit_can_be_reached() -> None:
    metered = meter(call_s=8.0, all_s=9.0)
    assert metered.again_s == 1.0  # a quarter of a call, on two cores
    metered.look(10.9, call=0)
    assert metered.again_s == pytest.approx(0.05)  # of the call's 8 s 0.1 s are left
    metered.look(10.999, call=0)
    assert metered.again_s == LEAST_S
    metered.look(11.5, call=1)
    assert metered.again_s == pytest.approx(0.25)  # of all 9 s 0.5 s are left


def test_a_call_is_ended_within_a_quarter_more_than_it_may_use() -> None:
    """The worst case: each call begins just after a look, and all cores are used."""
    metered, used, began = meter(), 3.0, 3.0
    metered.look(used, call=1)
    used += 0.001
    began = used  # call 2 begins
    while metered.look(used, call=2) is None:
        used += 2 * metered.again_s
    assert used - began <= 8.0 * 1.25 + 0.1


@pytest.mark.slow
def test_the_clock_of_another_process_is_the_kernels() -> None:
    busy = "import sys, time\nwhile time.process_time() < 0.3: pass\nprint('x', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        clock = Clock(child.pid)
        assert child.stdout is not None
        child.stdout.read(1)
        reading = clock.read()
        assert reading is not None
        assert reading >= 0.3
        child.kill()
    assert clock.read() is None
    assert Clock(child.pid).read() is None


def test_ones_own_clock() -> None:
    before, found, after = time.process_time(), Clock(os.getpid()).read(), time.process_time()
    assert found is not None
    assert before <= found <= after
