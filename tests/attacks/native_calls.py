"""What somebody tries who runs native code in an executor or a trainer: calls of the C library and of the kernel.

Each call returns whether it reached what it was after, and does no more harm than that. ``TARGETS`` are what it is
after; a test makes them, and holds the answers against what they should be.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import signal
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.mmap.restype = ctypes.c_void_p
_ARM: Final = platform.machine() == "aarch64"
SECRET: Final = b"the words that nobody else may read"


class Targets(msgspec.Struct, frozen=True):
    """What there is to attack."""

    key: str
    """A file with SECRET in it that the node's user may read, beside ``folder`` of others to be spoilt."""
    own: str
    """The data set of this session: readable, and nothing else."""
    folder: str
    tcp: int
    """A port of 127.0.0.1 on which somebody listens."""
    unix: str
    """The path of a unix socket on which somebody listens, and an abstract name likewise."""
    abstract: str
    victim: int
    """A process of the same user, with SECRET in its environment and at ``address``."""
    address: int


Call = Callable[[Targets], bool]
CALLS: Final[dict[str, Call]] = {}
"""Attacks that reach what they are after wherever nothing keeps them from it."""
RARE: Final[dict[str, Call]] = {}
"""Those for which a machine may need a right, a setting or a library that it has not: out of reach when confined."""


def attack(call: Call) -> Call:
    CALLS[call.__name__] = call
    return call


def rare(call: Call) -> Call:
    RARE[call.__name__] = call
    return call


def syscall(x86: int, arm: int | None, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    number = arm if _ARM else x86
    if number is None:
        return -1
    return int(libc.syscall(number, *(ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)))


def shows(path: str, secret: bytes = SECRET) -> bool:
    descriptor = libc.open(path.encode(), os.O_RDONLY)
    if descriptor < 0:
        return False
    room = ctypes.create_string_buffer(1 << 16)
    libc.read(descriptor, room, len(room))
    libc.close(descriptor)
    return secret in room.raw


# --- files


@attack
def read_the_key(targets: Targets) -> bool:
    return shows(targets.key)


@attack
def read_it_from_the_root_of_proc(targets: Targets) -> bool:
    return shows(f"/proc/self/root{targets.key}")


@attack
def read_it_with_openat2(targets: Targets) -> bool:
    descriptor = syscall(437, 437, -100, targets.key.encode(), ctypes.create_string_buffer(24), 24)
    return descriptor >= 0 and SECRET in os.read(descriptor, 1 << 16)


@attack
def read_it_through_a_path_descriptor(targets: Targets) -> bool:
    descriptor = libc.open(targets.key.encode(), os.O_PATH)
    return descriptor >= 0 and shows(f"/proc/self/fd/{descriptor}")


@attack
def list_its_folder(targets: Targets) -> bool:
    with suppress(OSError):
        return bool(os.listdir(targets.folder))
    return False


@attack
def read_the_users(targets: Targets) -> bool:
    return shows("/etc/passwd", b"root")


@attack
def read_the_environment_of_another_process(targets: Targets) -> bool:
    return shows(f"/proc/{targets.victim}/environ")


@attack
def read_the_command_line_of_another_process(targets: Targets) -> bool:
    return shows(f"/proc/{targets.victim}/cmdline", b"python")


@attack
def handle_of_a_file(targets: Targets) -> bool:
    handle = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0), 136)
    mount = ctypes.create_string_buffer(4)
    return syscall(303, 264, -100, targets.key.encode(), handle, mount, 0) == 0


@attack
def watch_a_folder(targets: Targets) -> bool:
    return syscall(254, 27, libc.inotify_init(), targets.folder.encode(), 0x100) >= 0


def spoil(targets: Targets, name: str) -> bytes:
    return os.path.join(targets.folder, name).encode()


@attack
def make_a_file(targets: Targets) -> bool:
    return int(libc.open(spoil(targets, "made"), os.O_CREAT | os.O_WRONLY, 0o600)) >= 0


@attack
def make_a_file_with_creat(targets: Targets) -> bool:
    return int(libc.creat(spoil(targets, "created"), 0o600)) >= 0


@attack
def write_a_file(targets: Targets) -> bool:
    return int(libc.open(spoil(targets, "write"), os.O_RDWR)) >= 0


@attack
def write_its_own_data(targets: Targets) -> bool:
    return int(libc.open(targets.own.encode(), os.O_RDWR)) >= 0


@attack
def cut_its_own_data_short_while_opening_it(targets: Targets) -> bool:
    return int(libc.open(spoil(targets, "cut"), os.O_RDONLY | os.O_TRUNC)) >= 0


@attack
def cut_a_file_short(targets: Targets) -> bool:
    return int(libc.truncate(spoil(targets, "truncate"), 0)) == 0


@attack
def show_a_file_to_everybody(targets: Targets) -> bool:
    return int(libc.chmod(spoil(targets, "chmod"), 0o777)) == 0


@attack
def give_a_file_away(targets: Targets) -> bool:
    return int(libc.chown(spoil(targets, "chown"), os.getuid(), os.getgid())) == 0


@attack
def date_a_file_back(targets: Targets) -> bool:
    return int(libc.utimensat(-100, spoil(targets, "utimes"), None, 0)) == 0


@attack
def remove_a_file(targets: Targets) -> bool:
    return int(libc.unlink(spoil(targets, "unlink"))) == 0


@attack
def rename_a_file(targets: Targets) -> bool:
    return int(libc.rename(spoil(targets, "rename"), spoil(targets, "renamed"))) == 0


@attack
def link_to_a_file(targets: Targets) -> bool:
    return int(libc.symlink(targets.key.encode(), spoil(targets, "symlink"))) == 0


@attack
def make_a_folder(targets: Targets) -> bool:
    return int(libc.mkdir(spoil(targets, "folder"), 0o700)) == 0


# --- the network


def sends(family: int, kind: int, address: object) -> bool:
    try:
        with socket.socket(family, kind) as end:
            end.connect(address)  # type: ignore[arg-type]
            return True
    except OSError:
        return False


@attack
def connect(targets: Targets) -> bool:
    return sends(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", targets.tcp))


@attack
def make_a_datagram_socket(targets: Targets) -> bool:
    return sends(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", targets.tcp))


@attack
def connect_to_a_unix_socket(targets: Targets) -> bool:
    return sends(socket.AF_UNIX, socket.SOCK_STREAM, targets.unix)


@attack
def connect_to_an_abstract_socket(targets: Targets) -> bool:
    return sends(socket.AF_UNIX, socket.SOCK_STREAM, b"\0" + targets.abstract.encode())


@attack
def listen(targets: Targets) -> bool:
    try:
        with socket.create_server(("127.0.0.1", 0)):
            return True
    except OSError:
        return False


@attack
def make_a_pair_of_sockets(targets: Targets) -> bool:
    return int(libc.socketpair(1, 1, 0, ctypes.create_string_buffer(8))) == 0


# --- programs and processes


def ended(pid: int) -> bool:
    """Whether a child process could be made, and ended well."""
    return pid > 0 and os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@attack
def fork(targets: Targets) -> bool:
    pid = syscall(57, 220, *([signal.SIGCHLD, 0, 0, 0, 0] if _ARM else []))
    if pid == 0:
        os._exit(0)
    return ended(pid)


@attack
def clone_a_process(targets: Targets) -> bool:
    pid = syscall(56, 220, signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return ended(pid)


@attack
def clone_a_process_with_clone3(targets: Targets) -> bool:
    pid = syscall(435, 435, ctypes.create_string_buffer(struct.pack("=8Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)), 64)
    if pid == 0:
        os._exit(0)
    return ended(pid)


@attack
def run_a_program(targets: Targets) -> bool:
    """Were there no fork, it would be this process that became another."""
    pid = int(libc.fork())
    if pid <= 0:
        libc.execve(b"/bin/sh", (ctypes.c_char_p * 4)(b"sh", b"-c", b"exit 0"), (ctypes.c_char_p * 1)())
    if pid == 0:
        os._exit(1)
    return ended(pid)


@attack
def run_a_program_by_its_descriptor(targets: Targets) -> bool:
    descriptor = libc.open(b"/bin/sh", os.O_PATH)
    pid = int(libc.fork())
    if pid <= 0:
        syscall(322, 281, descriptor, b"", (ctypes.c_char_p * 4)(b"sh", b"-c", b"exit 0"), None, 0x1000)  # type: ignore[arg-type]
    if pid == 0:
        os._exit(1)
    return ended(pid)


@attack
def trace(targets: Targets) -> bool:
    return int(libc.ptrace(0x4206, targets.victim, None, None)) == 0  # PTRACE_SEIZE: until this process ends


@attack
def read_memory(targets: Targets) -> bool:
    room = ctypes.create_string_buffer(len(SECRET))
    here = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(room), len(SECRET)))
    there = ctypes.create_string_buffer(struct.pack("=QQ", targets.address, len(SECRET)))
    return syscall(310, 270, targets.victim, here, 1, there, 1, 0) == len(SECRET) and room.raw.startswith(SECRET)


@attack
def read_memory_as_a_file(targets: Targets) -> bool:
    with suppress(OSError), open(f"/proc/{targets.victim}/mem", "rb", buffering=0) as file:
        file.seek(targets.address)
        return file.read(len(SECRET)) == SECRET
    return False


@attack
def write_memory(targets: Targets) -> bool:
    here = ctypes.create_string_buffer(SECRET)
    parts = [struct.pack("=QQ", place, len(SECRET)) for place in (ctypes.addressof(here), targets.address)]
    ours, theirs = map(ctypes.create_string_buffer, parts)
    return syscall(311, 271, targets.victim, ours, 1, theirs, 1, 0) == len(SECRET)


@attack
def signal_it(targets: Targets) -> bool:
    return int(libc.kill(targets.victim, signal.SIGCONT)) == 0


@attack
def signal_its_parent(targets: Targets) -> bool:
    return int(libc.kill(os.getppid(), 0)) == 0


@attack
def signal_a_thread(targets: Targets) -> bool:
    return syscall(234, 131, targets.victim, targets.victim, 0) == 0


@attack
def signal_through_a_descriptor(targets: Targets) -> bool:
    process = syscall(434, 434, targets.victim, 0)
    return process >= 0 and syscall(424, 424, process, 0, None, 0) == 0


@attack
def have_signals_sent(targets: Targets) -> bool:
    return int(libc.fcntl(0, 8, targets.victim)) == 0  # F_SETOWN


@attack
def limit_another_process(targets: Targets) -> bool:
    limits = ctypes.create_string_buffer(struct.pack("=QQ", 1 << 20, 1 << 20))
    return syscall(302, 261, targets.victim, 1, limits, None) == 0  # RLIMIT_FSIZE


@attack
def limit_another_process_from_a_round_address(targets: Targets) -> bool:
    """The lower half of the limits' address is zero: who looks at half an address sees none."""
    room = libc.mmap(ctypes.c_void_p(1 << 33), ctypes.c_size_t(4096), 3, 0x100022, -1, ctypes.c_long(0))
    ctypes.memmove(room, struct.pack("=QQ", 1 << 20, 1 << 20), 16)
    return syscall(302, 261, targets.victim, 1, 1 << 33, None) == 0


@attack
def slow_another_process_down(targets: Targets) -> bool:
    return int(libc.setpriority(0, targets.victim, 19)) == 0


@attack
def give_another_process_fewer_processors(targets: Targets) -> bool:
    mask = ctypes.create_string_buffer(128)
    size = syscall(204, 123, targets.victim, len(mask), mask)
    return size > 0 and syscall(203, 122, targets.victim, size, mask) == 0


@attack
def outlive_the_listener(targets: Targets) -> bool:
    return int(libc.prctl(1, 0, 0, 0, 0)) == 0  # PR_SET_PDEATHSIG


# --- doors of the kernel's that a machine may have closed already


@rare
def take_a_descriptor(targets: Targets) -> bool:
    return syscall(438, 438, syscall(434, 434, targets.victim, 0), 0, 0) >= 0


@rare
def open_by_handle(targets: Targets) -> bool:
    handle = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0), 136)
    syscall(303, 264, -100, targets.key.encode(), handle, ctypes.create_string_buffer(4), 0)
    folder = libc.open(targets.folder.encode(), os.O_PATH)
    return syscall(304, 265, folder, handle, os.O_RDONLY) >= 0


@rare
def read_the_passwords(targets: Targets) -> bool:
    return shows("/etc/shadow", b"root")


@rare
def set_up_io_uring(targets: Targets) -> bool:
    return syscall(425, 425, 8, ctypes.create_string_buffer(120)) >= 0


@rare
def handle_page_faults(targets: Targets) -> bool:
    return syscall(323, 282, 1) >= 0


@rare
def count_events(targets: Targets) -> bool:
    return syscall(298, 241, ctypes.create_string_buffer(struct.pack("=IIQ", 1, 128, 0), 128), 0, -1, -1, 0) >= 0


@rare
def load_bpf(targets: Targets) -> bool:
    attributes = ctypes.create_string_buffer(struct.pack("=IIII", 2, 4, 8, 1), 128)  # an array with one entry
    return syscall(321, 280, 0, attributes, 128) >= 0


@rare
def keep_a_key(targets: Targets) -> bool:
    return syscall(250, 219, 0, -3, 1) >= 0  # KEYCTL_GET_KEYRING_ID


@rare
def unshare_namespaces(targets: Targets) -> bool:
    return int(libc.unshare(0x10000000)) == 0  # CLONE_NEWUSER


@rare
def mount(targets: Targets) -> bool:
    return syscall(430, 430, b"tmpfs", 0) >= 0  # fsopen(2), which mounts begin with


@rare
def type_on_a_terminal(targets: Targets) -> bool:
    descriptor = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
    return int(libc.ioctl(descriptor, 0x5412, b"x")) == 0  # TIOCSTI


@rare
def call_as_x32(targets: Targets) -> bool:
    return not _ARM and syscall(0x40000000 | 2, None, targets.key.encode(), 0) >= 0


@rare
def make_files_of_memory(targets: Targets) -> bool:
    return syscall(319, 279, b"x", 0) >= 0


def from_each_thread(targets: Targets, *, threads: int) -> dict[int, bool]:
    """By thread of PyTorch's pool, whether it reads the key. The pool is OpenMP's (GOMP_parallel of libgomp's ABI)."""
    maps = Path("/proc/self/maps").read_text()
    found = re.search(r"\S*/libgomp\S*", maps)
    assert found, "this build of PyTorch computes with other threads than libgomp's"
    answers: dict[int, bool] = {}

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def work(_: object) -> None:
        answers[int(libc.gettid())] = shows(targets.key)

    ctypes.CDLL(found[0]).GOMP_parallel(work, None, threads, 0)
    return answers


def answers(targets: Targets) -> dict[str, bool]:
    """Of all of them, by name; the last of all, whether this session's own data set can be read."""
    found = {}
    for name, call in (CALLS | RARE).items():
        with suppress(OSError):
            found[name] = call(targets)
    return found | {"own": shows(targets.own)}
