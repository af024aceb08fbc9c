"""What a child process is left with: its files, its threads, its calls; and what an owner hears of it."""

from __future__ import annotations

import errno
import os
import platform
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cloister.node import confinement, seccomp
from cloister.node.confinement import Means
from cloister.node.data_files import DataSetEntry
from cloister.node.session.child import Assignment, Child
from cloister.wire import sessions as m
from cloister.wire.frames import Kind
from cloister.wire.tensors import TensorSpec

THREADS = 3
MEANS = confinement.means()
with_landlock = pytest.mark.skipif(not MEANS.landlock, reason="this kernel has no Landlock")
with_seccomp = pytest.mark.skipif(not MEANS.seccomp, reason="this kernel has no seccomp")


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """An executor that has found its data set, and computed with all of its threads."""
    file = tmp_path_factory.mktemp("data") / "mri.npz"
    np.savez(file, x=np.zeros((1, 1), np.float32))
    child = Child.start(Assignment(os.getpid(), 1 << 28, 1000, "cpu", THREADS))
    try:
        assert child.wait_ready(within_s=100.0)
        # What an owner puts in a file's place is what the next session finds, also of one that waits already.
        np.savez(file.with_name("newer.npz"), x=np.ones((400, 400), np.float32))
        file.with_name("newer.npz").replace(file)
        spec = TensorSpec("float32", (400, 400))
        child.open([DataSetEntry(("#x",), str(file), "x", spec, unsafe_interactive=True)])
        child.session.send(Kind.ASK, m.Ask([], m.Search(("#x",), 1)))
        assert isinstance(child.session.receive().message(m.VOCABULARY), m.Found)
        child.session.send(Kind.ASK, m.Ask([m.Call("aten::mm", [1, 1], {}, (2,), None, 0)], m.Count()))
        assert isinstance(child.session.receive().message(m.VOCABULARY), m.Counted)
        yield child
    finally:
        child.end()


def statuses(pid: int) -> list[dict[str, str]]:
    """proc_pid_status(5) of each of its threads."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        found.append({name: value.strip() for name, _, value in (line.partition(":") for line in lines)})
    return found


@pytest.mark.slow
@with_seccomp
def test_no_thread_is_left_out(child: Child) -> None:
    found = statuses(child.pid)
    assert len(found) >= THREADS
    assert {(each["NoNewPrivs"], each["Seccomp"], each["Seccomp_filters"]) for each in found} == {("1", "2", "1")}


@pytest.mark.slow
def test_a_child_has_its_links_and_its_log(child: Child) -> None:
    kinds = {}
    for entry in Path(f"/proc/{child.pid}/fd").iterdir():
        kinds[int(entry.name)] = os.readlink(entry).partition(":")[0]
    assert (kinds.pop(0), kinds.pop(1), kinds.pop(2)) == ("pipe", "/dev/null", "pipe")
    # Two links: each has a socket for frames, another for signals, and memory.
    assert sorted(kinds.values()) == ["/memfd"] * 2 + ["socket"] * 4


@pytest.mark.slow
def test_a_child_is_told_little(child: Child) -> None:
    told = Path(f"/proc/{child.pid}/environ").read_text().split("\0")
    names = {each.partition("=")[0] for each in told if each}
    known = {"LANG", "LC_ALL", "LD_LIBRARY_PATH", "TZ", "PYTHONPATH", "OPENBLAS_NUM_THREADS"}
    assert not {name for name in names - known if not name.startswith(("MALLOC_", "CUDA_", "NVIDIA_"))}


def ran(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own, which is confined no longer than it lasts."""
    environment = {"PYTHONPATH": str(Path(confinement.__file__).parents[2])}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=100)


EACH_VERSION = """
import os, sys
from cloister.node import landlock
from cloister.node.syscalls import prctl
abi, own, other = int(sys.argv[1]), sys.argv[2], sys.argv[3]
landlock.version = lambda: abi
prctl(38, 1)
landlock.restrict([(own, landlock.READ), ("/nowhere", landlock.READ)])
open(own).close()
for path, flags in (other, os.O_RDONLY), (own, os.O_WRONLY), (os.path.dirname(own), os.O_RDONLY):
    try:
        os.open(path, flags)
    except PermissionError:
        continue
    print(path, flags)
"""


@pytest.mark.slow
@with_landlock
@pytest.mark.parametrize("abi", range(1, MEANS.landlock + 1))
def test_each_version_of_landlock_is_asked_for_what_it_has(tmp_path: Path, abi: int) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    own.write_text("x")
    other.write_text("x")
    done = ran(EACH_VERSION, str(abi), str(own), str(other))
    assert (done.stdout, done.stderr) == ("", "")


def test_what_has_threads_is_not_confined() -> None:
    """They could do everything, and be made to."""
    script = """
import threading
from cloister.node.confinement import confine
bell = threading.Event()
threading.Thread(target=bell.wait).start()
try:
    confine([], device="cpu")
except RuntimeError as fault:
    print(fault)
bell.set()
"""
    done = ran(script)
    assert "started threads" in done.stdout, done.stderr


def verdict(program: bytes, audit: int, number: int, *arguments: int) -> int:
    """What a filter answers to a call: classic BPF, as the kernel runs it."""
    data = struct.pack("=iIQ6Q", number, audit, 0, *arguments, *[0] * (6 - len(arguments)))
    at = held = 0
    while True:
        code, true, false, operand = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        if code == 0x20:
            held = struct.unpack_from("=I", data, operand)[0]
        elif code == 0x54:
            held &= operand
        elif code == 0x15:
            at += true if held == operand else false
        else:
            assert code == 0x06
            return int(operand)


ALLOWED, UNKNOWN, FORBIDDEN = 0x7FFF0000, 0x50000 | errno.ENOSYS, 0x50000 | errno.EPERM
THREAD, NEW_NETWORK = 0x3D0F00, 0x40000000
PAGE = 1 << 32
TYPE, ISATTY = 0x5412, 0x5401
# by name of the call: arguments, on the CPU, on a device with drivers
ANSWERS = [
    ("read", (0,), ALLOWED, ALLOWED),
    ("clone", (THREAD,), ALLOWED, ALLOWED),
    ("clone", (signal.SIGCHLD,), FORBIDDEN, FORBIDDEN),
    ("clone", (THREAD | NEW_NETWORK,), FORBIDDEN, FORBIDDEN),
    ("tgkill", (os.getpid(),), ALLOWED, ALLOWED),
    ("tgkill", (os.getppid(),), FORBIDDEN, FORBIDDEN),
    ("fcntl", (0, 3), ALLOWED, ALLOWED),
    ("fcntl", (0, 8), FORBIDDEN, FORBIDDEN),
    ("prlimit64", (0, 7, 0, PAGE), ALLOWED, ALLOWED),
    ("prlimit64", (0, 7, PAGE, 0), FORBIDDEN, FORBIDDEN),
    ("prlimit64", (0, 7, 1, 0), FORBIDDEN, FORBIDDEN),
    ("prctl", (15,), ALLOWED, ALLOWED),
    ("prctl", (1,), FORBIDDEN, FORBIDDEN),
    ("openat", (0, 0, os.O_RDONLY | os.O_CLOEXEC), ALLOWED, ALLOWED),
    ("openat", (0, 0, os.O_RDWR), FORBIDDEN, ALLOWED),
    ("openat", (0, 0, os.O_RDONLY | os.O_TRUNC), FORBIDDEN, ALLOWED),
    ("ioctl", (0, ISATTY), ALLOWED, ALLOWED),
    ("ioctl", (0, TYPE), FORBIDDEN, ALLOWED),
    ("socket", (1, 1 | 0x80000), UNKNOWN, ALLOWED),
    ("socket", (1, 2), UNKNOWN, FORBIDDEN),
    ("socket", (2, 1), UNKNOWN, FORBIDDEN),
]
SOCKET = {"x86_64": 41, "aarch64": 198}


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("drivers", [False, True], ids=["cpu", "drivers"])
def test_the_filter_of_each_architecture(machine: str, drivers: bool) -> None:
    numbers = seccomp.numbers(machine, drivers=drivers)
    program = seccomp.program(machine, drivers=drivers)
    audit = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]
    for name, arguments, *expected in ANSWERS:
        number = numbers.get(name, SOCKET[machine])
        assert verdict(program, audit, number, *arguments) == expected[drivers], (name, arguments)
    assert {number for number in range(1000) if verdict(program, audit, number) != UNKNOWN} == set(numbers.values())
    for number in numbers.values():
        assert verdict(program, audit, number | 0x40000000) == UNKNOWN  # x32
        assert verdict(program, 0x40000003, number) == 0x80000000  # a program of 32 bits: killed


@with_seccomp
@pytest.mark.skipif(platform.machine() != "x86_64", reason="of x86-64 only")
def test_the_calls_of_32_bit_programs_are_no_way_around() -> None:
    script = """
import ctypes, mmap, sys
from cloister.node import seccomp
from cloister.node.syscalls import prctl
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b814000000 cd80 c3"))  # mov eax, 20 (getpid); int 0x80; ret
call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
prctl(38, 1)
seccomp.restrict()
call()
"""
    # SIGSEGV: this kernel has no such calls to begin with
    assert ran(script).returncode in (-signal.SIGSYS, -signal.SIGSEGV)


def test_an_owner_hears_what_is_missing() -> None:
    assert str(Means(landlock=7, seccomp=True)) == "no_new_privs, Landlock (ABI 7), seccomp"
    without = str(Means(landlock=0, seccomp=True))
    assert without.startswith("no_new_privs, seccomp; NOT by Landlock")
    assert "can read every file" in without
    without = str(Means(landlock=1, seccomp=False))
    assert without.startswith("no_new_privs, Landlock (ABI 1); NOT by seccomp")
    assert "the network" in without


@pytest.mark.slow
def test_where_a_kernel_has_nothing_a_process_serves_all_the_same() -> None:
    script = """
from cloister.node import confinement
confinement.means = lambda: confinement.Means(landlock=0, seccomp=False)
confinement.confine([], device="cpu")
print([line for line in open("/proc/self/status") if line.startswith("NoNewPrivs")])
"""
    done = ran(script)
    assert done.stdout == "['NoNewPrivs:\\t1\\n']\n", done.stderr
