"""What the operating system holds a child process to. Linux only; each call's manual page is named beside it.

A child runs native code on what strangers send and on files that may be anybody's. It holds no key, and this is what
keeps it from reading one: before it handles the first byte of either, it gives up for good whatever it will not need
(``confine``). What somebody could do who had taken it over is then: compute, read the data sets that it was given and
the software that it runs, see names and sizes of other files, and speak to its listener.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from cloister.node import landlock, seccomp
from cloister.node.landlock import READ, USE
from cloister.node.syscalls import prctl

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_PR_SET_NO_NEW_PRIVS: Final = 38
_SLACK_BYTES: Final = 256 << 20
"""For the allocator's arenas and PyTorch's own tables, beyond what a session holds."""
_THREAD_BYTES: Final = 16 << 20
"""For each thread: a stack of 8 MiB in each of PyTorch's two pools."""

_SYSTEM: Final = (
    # libraries, and what they look at: the time zone, the processors, the memory
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache"),
    *("/etc/localtime", "/usr/share/zoneinfo"),
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys/vm/overcommit_memory"),
    *("/sys/devices/system/cpu", "/sys/devices/system/node"),
    *("/dev/null", "/dev/zero", "/dev/urandom"),
    # Not all of /proc/self: its net tells of the machine's connections.
    *("/proc/self/maps", "/proc/self/stat", "/proc/self/statm", "/proc/self/status"),
)
_DRIVERS: Final = (
    # what CUDA's libraries read
    *("/usr/local/cuda", "/proc/driver/nvidia", "/proc/devices", "/proc/modules"),
    *("/sys/bus/pci", "/sys/devices", "/sys/module"),
)


class Means(NamedTuple):
    """What this machine has for ``confine``, besides ``no_new_privs``, which every kernel has."""

    landlock: int
    """Its version (ABI); 0: none."""
    seccomp: bool

    def __str__(self) -> str:
        """For the owner: what confines a child process, and what the lack of the rest leaves in reach."""
        there, missing = ["no_new_privs"], ""
        if self.landlock:
            there.append(f"Landlock (ABI {self.landlock})")
        else:
            missing += (
                "; NOT by Landlock, which this kernel lacks or has switched off: who takes a process over can read"
            )
            missing += " every file that the node's user may read"
        if self.seccomp:
            there.append("seccomp")
        else:
            missing += "; NOT by seccomp, which this kernel lacks, or cloister for this processor: who takes a process"
            missing += " over can use the network, run programs and reach the user's other processes"
        return ", ".join(there) + missing


def means() -> Means:
    """What there is on this machine."""
    return Means(landlock.version(), seccomp.available())


def tie(listener: int) -> None:
    """Ties this process to its listener, and keeps its memory out of core files.

    Raises:
        EOFError: the listener is gone already.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the listener
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # getrlimit(2)
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != listener:  # it died before the line above took effect
        raise EOFError("the listener is gone")


def confine(data: Iterable[str], *, device: str) -> None:
    """Leaves this process, for good, the software that it runs and these files, to read them, and what a program does
    with itself: no other file, nothing to be written, no socket, no program, no other process.

    Called by the only thread, because Landlock holds for a thread and for those that it starts: one that there was
    before could do everything, and be made to. Where the kernel has only a part of the means, that part; the node says
    so at its start. A device other than the CPU is driven through its own files, and by more system calls: see
    ``docs/operations.md``.

    Raises:
        RuntimeError: there are other threads already.
        OSError: the kernel refuses.
    """
    if len(os.listdir("/proc/self/task")) != 1:
        raise RuntimeError("a library has started threads when it was loaded; the process cannot be confined any more")
    drivers = device != "cpu"
    found = means()
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if found.landlock:
        landlock.restrict(_rules(data, drivers=drivers))
    if found.seccomp:
        seccomp.restrict(drivers=drivers)


def _rules(data: Iterable[str], *, drivers: bool) -> Iterator[tuple[str, int]]:
    for path in (*_software(), *_SYSTEM, *data):
        yield path, READ
    if drivers:
        for path in _DRIVERS:
            yield path, READ
        for device in Path("/dev").glob("nvidia*"):
            yield str(device), USE


def _software() -> Iterator[str]:
    """Where modules and libraries lie that may still be loaded."""
    yield from filter(os.path.isabs, sys.path)
    # Not all of sys.prefix: somebody may keep a key beside an environment.
    yield from (os.path.join(prefix, "lib") for prefix in (sys.prefix, sys.base_prefix))
    yield from filter(os.path.isabs, os.environ.get("LD_LIBRARY_PATH", "").split(":"))


def limit_memory(more_bytes: int, *, threads: int) -> None:
    """Lets the process's private memory grow by ``more_bytes``, stacks for ``threads`` threads, and some slack.

    A backstop: a session's limit is checked from shapes before an operation runs, which leaves out what the operation
    needs for itself meanwhile. RLIMIT_DATA counts private writable memory (Linux 4.7 and later) and leaves out what is
    reserved only; RLIMIT_AS would count torch's libraries and every reservation too.
    """
    limit = _private_bytes() + more_bytes + threads * _THREAD_BYTES + _SLACK_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _private_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as file:  # proc_pid_status(5)
        for line in file:
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    raise OSError("no VmData in /proc/self/status")
