"""What a simulated TEE says is running: a list of it, and the hash of that list.

The list is text, so that two people whose measurements differ can see why. It covers every file of this package, the
interpreter, the distributions below it, the interpreter's flags and the role that was started. It holds neither the
charter (which names this measurement, so it cannot be inside it) nor addresses: evidence binds those by itself.

It is no proof. A process that lies reports any measurement; the standard library is not read; a distribution counts by
its RECORD, which is written when it is installed and not looked at again; and byte code in ``__pycache__`` is believed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final

import cloister
from cloister.errors import NoTeeError

REQUIRES: Final = ("cbor2", "cryptography", "dcap-qvl", "msgspec", "numpy", "rich", "safetensors", "torch", "typer")
"""What cloister needs, with what it uses when it is there. Written out, because a source tree has no metadata."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@cache
def measure(role: str) -> bytes:
    """SHA-384 of ``inventory(role)``, 48 bytes. Read once in a process: later changes on disk do not run in it.

    Raises:
        NoTeeError: what runs cannot be read.
    """
    return hashlib.sha384(inventory(role).encode()).digest()


def inventory(role: str) -> str:
    """What runs here as ``role``, in JSON with sorted keys: the same for all processes that are started alike.

    Raises:
        NoTeeError: what runs cannot be read.
    """
    try:
        parts = {
            "role": role,
            "package": dict(_package()),
            "interpreter": _interpreter(),
            "flags": _flags(),
            "distributions": _distributions(),
        }
    except (OSError, UnicodeError) as fault:
        raise NoTeeError(f"the simulated TEE cannot measure what runs here: {fault}") from None
    return json.dumps(parts, sort_keys=True, indent=1)


def _package() -> Iterator[tuple[str, str]]:
    root = Path(cloister.__file__).parent
    for folder, folders, files in os.walk(root, onerror=_refuse):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in files:
            path = Path(folder, name)
            yield path.relative_to(root).as_posix(), _digest(path)


def _interpreter() -> dict[str, Any]:
    return {
        "implementation": sys.implementation.name,
        "cache_tag": sys.implementation.cache_tag,
        "hexversion": sys.hexversion,
        "version": sys.version,
        "executable": _digest(Path("/proc/self/exe")),
        "libraries": [_digest(path) for path in _libpython()],
    }


def _libpython() -> list[Path]:
    """The shared library that holds the interpreter, where the executable is only a small front of it."""
    mapped = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text("utf-8").splitlines()}
    return sorted(Path(name) for name in mapped if Path(name).name.startswith("libpython"))


def _flags() -> dict[str, int]:
    """Those of ``sys.flags`` that change what runs. ``utf8_mode`` does not: every file is read in an encoding that is
    named, and Python turns that flag on by itself where the locale is C, which also a library may do to what it starts.
    """
    no_flags = ("count", "index", "utf8_mode")
    names = [name for name in dir(sys.flags) if not name.startswith(("_", "n_")) and name not in no_flags]
    return {name: int(getattr(sys.flags, name)) for name in names}


def _distributions() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    waiting = list(REQUIRES)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()  # PEP 503: one spelling
        if name in found:
            continue
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        found[name] = [installed.version, hashlib.sha256((installed.read_text("RECORD") or "").encode()).hexdigest()]
        waiting += _required(installed)
    return found


def _required(installed: Distribution) -> Iterator[str]:
    """What a distribution needs without its extras. Other markers are not judged: what is not installed drops out."""
    for requirement in installed.requires or ():
        name = _NAME.match(requirement)
        if name and "extra" not in requirement.partition(";")[2]:
            yield name.group()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse(fault: OSError) -> None:
    raise fault
