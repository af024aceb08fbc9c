"""How a service ends when it is asked to: whichever of its threads the signal interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

PROGRAM = """
import os, select, signal, threading
from cloister.net.signals import end_on_signals
reading, writing = os.pipe()
end_on_signals(lambda: os.write(writing, b"."))
main = f"/proc/self/task/{os.getpid()}/stat"

def interrupt():
    while open(main).read().rpartition(")")[2].split()[0] != "S":
        os.sched_yield()
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    threading.Event().wait()

threading.Thread(target=interrupt, daemon=True).start()
poll = select.poll()
poll.register(reading, select.POLLIN)
poll.poll()  # nothing interrupts this thread
print("ended")
if os.environ.get("TWICE"):
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait()
"""


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env={**os.environ, **environment},
    )


def test_a_signal_that_another_thread_gets_ends_it() -> None:
    done = run()
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


def test_a_second_one_ends_it_at_once() -> None:
    assert run(TWICE="1").returncode == 128 + signal.SIGINT
