"""A process gives up files for good: landlock(7), by a list of those that are left to it.

A rule is about a file, or all that is below a folder, as it is when the rule is made: another file in the same place
later is not the same. What is open already stays open. It holds for the thread that asks for it and for those that this
thread starts.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from typing import Final

from cloister.node.syscalls import system_call

# Of 5.12 and later: the same numbers on all architectures (syscalls(2)).
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION: Final = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH: Final = 1  # LANDLOCK_RULE_PATH_BENEATH

# LANDLOCK_ACCESS_FS_*, linux/landlock.h
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_IOCTL_DEV: Final = 1 << 15
READ: Final = _READ_FILE | _READ_DIR
USE: Final = READ | _WRITE_FILE | _IOCTL_DEV
"""What a device file is for."""
_ALL: Final = ((1, 13), (2, 14), (3, 15), (5, 16))
"""How many kinds of access to files there are, from which ABI on. Running programs is one of the first."""
_ALL_OF_TCP: Final = 0b11  # bind, connect; ABI 4
_ALL_SCOPES: Final = 0b11  # abstract unix sockets, signals; ABI 6


class _Ruleset(ctypes.Structure):
    """struct landlock_ruleset_attr. An older kernel takes it, where what it does not know is zero."""

    _fields_ = [("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _Rule(ctypes.Structure):
    """struct landlock_path_beneath_attr."""

    _pack_ = 1
    _fields_ = [("access", ctypes.c_uint64), ("descriptor", ctypes.c_int32)]


def version() -> int:
    """The newest version (ABI) of Landlock that this kernel has; 0 where it has none, or it is switched off."""
    try:
        return system_call(_CREATE_RULESET, None, 0, _VERSION)
    except OSError:
        return 0


def restrict(rules: Iterable[tuple[str, int]]) -> None:
    """Leaves this thread, and those that it will start, these paths, each with ``READ`` or ``USE``, and no other file,
    no TCP, and, as far as the kernel has it, no abstract socket and no signal to other processes. It has to have
    ``no_new_privs``. Paths where nothing is are passed over.

    Raises:
        OSError: the kernel refuses.
    """
    abi = version()
    handled = (1 << max(kinds for since, kinds in _ALL if since <= abi)) - 1
    attributes = _Ruleset(handled, _ALL_OF_TCP * (abi >= 4), _ALL_SCOPES * (abi >= 6))
    ruleset = system_call(_CREATE_RULESET, ctypes.byref(attributes), ctypes.sizeof(attributes), 0)
    try:
        for path, access in rules:
            _add(ruleset, path, access & handled)
        system_call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _add(ruleset: int, path: str, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # nothing there, or nothing for this user
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= ~_READ_DIR
        system_call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(_Rule(access, descriptor)), 0)
    finally:
        os.close(descriptor)
