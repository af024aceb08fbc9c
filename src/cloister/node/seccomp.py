"""A process gives up system calls for good: seccomp(2), by a list of those that are left to it.

What is not on the list gets ENOSYS, as on a kernel that is older than the call. Libraries have a way of their own for
that, so a newer glibc or PyTorch falls back to what is here instead of failing; it is also how clone3, whose flags lie
in memory that no filter can read, becomes a clone, whose flags can be looked at.

On the list is what a process does with itself: its memory, its threads, its time, the descriptors that it has, and
opening files to read them. Not on it are new sockets, programs and processes, other processes' memory, signals and
limits, names and modes of files, and whatever else a kernel has been attacked through.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from cloister.node.syscalls import system_call


class Check(NamedTuple):
    """What a call's argument has to be: 32 bits of it, masked, are one of ``values``."""

    argument: int
    values: Sequence[int]
    mask: int = 0xFFFFFFFF
    upper: bool = False
    """The upper 32 of its 64 bits."""


class Architecture(NamedTuple):
    """An architecture: AUDIT_ARCH_* of linux/audit.h, the number of seccomp(2), and its column in the table below."""

    audit: int
    seccomp: int
    column: int


_ARCHITECTURES: Final = {"x86_64": Architecture(0xC000003E, 317, 0), "aarch64": Architecture(0xC00000B7, 277, 1)}
"""By platform.machine(). The calls of x32 have other numbers, which are on no list."""

# --- The calls, with their numbers on x86-64 and on 64-bit Arm (asm/unistd_64.h, asm-generic/unistd.h; "-": it has no
#     such call). Some are looked at more closely: see _checks.
_CALLS: Final = """
    brk 12 214              mmap 9 222                munmap 11 215           mremap 25 216
    mprotect 10 226         madvise 28 233            msync 26 227            mincore 27 232
    mlock 149 228           munlock 150 229           get_mempolicy 239 236

    clone 56 220            futex 202 98              set_robust_list 273 99  set_tid_address 218 96
    rseq 334 293            membarrier 324 283        sched_yield 24 124      sched_getaffinity 204 123
    sched_getparam 143 121  sched_getscheduler 145 120  sched_get_priority_max 146 125  sched_get_priority_min 147 126
    getcpu 309 168          arch_prctl 158 -          gettid 186 178          exit 60 93
    exit_group 231 94

    rt_sigaction 13 134     rt_sigprocmask 14 135     rt_sigreturn 15 139     sigaltstack 131 132
    rt_sigtimedwait 128 137  restart_syscall 219 128  tgkill 234 131

    clock_gettime 228 113   clock_getres 229 114      clock_nanosleep 230 115  nanosleep 35 101
    gettimeofday 96 169     time 201 -                times 100 153           setitimer 38 103
    getitimer 36 102

    read 0 63               pread64 17 67             readv 19 65             preadv 295 69
    write 1 64              writev 20 66              close 3 57              close_range 436 436
    fstat 5 80              lseek 8 62                dup 32 23               dup2 33 -
    dup3 292 24             fcntl 72 25               ioctl 16 29             poll 7 -
    ppoll 271 73            select 23 -               pselect6 270 72         epoll_create1 291 20
    epoll_ctl 233 21        epoll_wait 232 -          epoll_pwait 281 22      eventfd2 290 19
    pipe2 293 59            fadvise64 221 223         readahead 187 213       recvfrom 45 207
    sendto 44 206           shutdown 48 210           getsockopt 55 209       getsockname 51 204

    openat 257 56           open 2 -                  newfstatat 262 79       stat 4 -
    lstat 6 -               statx 332 291             statfs 137 43           fstatfs 138 44
    access 21 -             faccessat 269 48          faccessat2 439 439      readlink 89 -
    readlinkat 267 78       getdents64 217 61         getcwd 79 17

    getpid 39 172           getppid 110 173           getuid 102 174          geteuid 107 175
    getgid 104 176          getegid 108 177           getpgid 121 155         getsid 124 156
    getpgrp 111 -           uname 63 160              sysinfo 99 179          getrusage 98 165
    getrlimit 97 163        prlimit64 302 261         getrandom 318 278       prctl 157 167
    getpriority 140 141     umask 95 166
"""
_CALLS_OF_DRIVERS: Final = """
    mbind 237 235           set_mempolicy 238 237     memfd_create 319 279    ftruncate 77 46
    socket 41 198           setsockopt 54 208         bind 49 200             listen 50 201
    accept4 288 242
"""
"""What CUDA's libraries do beside: memory near a device, and a socket over which to share it."""

_CLONE_THREAD: Final = 0x00010000  # clone(2)
_CLONE_NAMESPACES: Final = 0x7E020000
_NOT_ONLY_TO_READ: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_FCNTL: Final = (0, 1, 2, 3, 4, 1030, 1032, 1034)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_GETPIPE_SZ, F_GET_SEALS. F_SETOWN signals others."""
_IOCTL: Final = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX. TIOCSTI would type on the owner's terminal."""
_PRCTL: Final = (15, 16, 0x53564D41)
"""PR_SET_NAME, PR_GET_NAME, PR_SET_VMA: names of threads and of memory."""
_AF_UNIX: Final = 1
_STREAMS: Final = (1, 5)
"""SOCK_STREAM, SOCK_SEQPACKET: they speak to nobody without connect(2). Datagrams would."""


def _checks(*, drivers: bool) -> dict[str, tuple[Check, ...]]:
    checks = {
        "clone": (Check(0, [_CLONE_THREAD], mask=_CLONE_THREAD | _CLONE_NAMESPACES),),
        "tgkill": (Check(0, [os.getpid()]),),  # abort(3)
        "fcntl": (Check(1, _FCNTL),),
        "prlimit64": (Check(2, [0]), Check(2, [0], upper=True)),  # there is no new limit
        "prctl": (Check(0, _PRCTL),),
    }
    if drivers:
        return checks | {"socket": (Check(0, [_AF_UNIX]), Check(1, _STREAMS, mask=0xF))}
    return checks | {
        "ioctl": (Check(1, _IOCTL),),
        "open": (Check(1, [0], mask=_NOT_ONLY_TO_READ),),
        "openat": (Check(2, [0], mask=_NOT_ONLY_TO_READ),),
    }


def available() -> bool:
    """Whether this kernel has it, and the numbers of this machine's calls stand here."""
    architecture = _ARCHITECTURES.get(platform.machine())
    if architecture is None:
        return False
    try:
        system_call(architecture.seccomp, _GET_ACTION_AVAIL, 0, ctypes.byref(ctypes.c_uint32(_RET_ERRNO)))
    except OSError:
        return False
    return True


def restrict(*, drivers: bool = False) -> None:
    """Leaves this thread, and those that it will start, the calls of the list. It has to have ``no_new_privs``.

    ``drivers``: also those that the libraries of a device need, and any ``ioctl``.

    Raises:
        OSError: the kernel refuses.
    """
    machine = platform.machine()
    code = program(machine, drivers=drivers)
    held = ctypes.create_string_buffer(code, len(code))
    described = _Program(len(code) // _INSTRUCTION_BYTES, ctypes.cast(held, ctypes.c_void_p))
    system_call(_ARCHITECTURES[machine].seccomp, _SET_MODE_FILTER, 0, ctypes.byref(described))


def numbers(machine: str, *, drivers: bool) -> dict[str, int]:
    """The list, for a machine of this name (``platform.machine``): each call and its number there."""
    column = 1 + _ARCHITECTURES[machine].column
    words = (_CALLS + _CALLS_OF_DRIVERS * drivers).split()
    rows = zip(words[::3], words[column::3], strict=True)
    return {name: int(number) for name, number in rows if number != "-"}


# --- The filter: a program of classic BPF over struct seccomp_data, linux/filter.h and linux/seccomp.h.
_SET_MODE_FILTER: Final = 1
_GET_ACTION_AVAIL: Final = 2
_RET_KILL: Final = 0x80000000
_RET_ERRNO: Final = 0x00050000
_RET_ALLOW: Final = 0x7FFF0000
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP_IF: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_INSTRUCTION_BYTES: Final = 8
_NUMBER, _AUDIT, _ARGUMENTS = 0, 4, 16  # where they lie in struct seccomp_data


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


def program(machine: str, *, drivers: bool) -> bytes:
    """The filter for a machine of this name."""
    checks = _checks(drivers=drivers)
    code = [
        _instruction(_LOAD, _AUDIT),
        _instruction(_JUMP_IF, _ARCHITECTURES[machine].audit, true=1),
        _instruction(_RETURN, _RET_KILL),
        _instruction(_LOAD, _NUMBER),
    ]
    for name, number in numbers(machine, drivers=drivers).items():
        answer = [piece for check in checks.get(name, ()) for piece in _held_against(check)]
        answer.append(_instruction(_RETURN, _RET_ALLOW))
        code += [_instruction(_JUMP_IF, number, false=len(answer)), *answer]
    code.append(_instruction(_RETURN, _RET_ERRNO | errno.ENOSYS))
    return b"".join(code)


def _held_against(check: Check) -> list[bytes]:
    """Goes on behind itself if the check holds, and answers EPERM if not."""
    count = len(check.values)
    return [
        _instruction(_LOAD, _ARGUMENTS + 8 * check.argument + 4 * check.upper),  # both are little-endian
        _instruction(_AND, check.mask),
        *(_instruction(_JUMP_IF, value, true=count - at) for at, value in enumerate(check.values)),
        _instruction(_RETURN, _RET_ERRNO | errno.EPERM),
    ]


def _instruction(code: int, operand: int, *, true: int = 0, false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, true, false, operand)
