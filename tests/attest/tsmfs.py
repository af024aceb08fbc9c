"""Stand-ins for what a TEE's software is: Linux's configfs-tsm and Gramine's ``/dev/attestation``, as file systems.

They follow drivers/virt/coco/guest/report.c with fs/configfs/file.c, and Gramine's libos_attestation.c, where a user
can tell: the generation counter, what is taken at which moment, what is refused with which error and what silently.
What the TEE answers is a function of the test's.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from tests.attest import fusefs

REPORT_DATA = 64
WORDS = 1 << 64


def refuse(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def snp_report(report_data: bytes, *, signer: int = 0) -> bytes:
    """Something of the shape of an SEV-SNP report. ``signer``: 0 VCEK, 1 VLEK."""
    report = bytearray(0x4A0)
    struct.pack_into("<I", report, 0, 3)
    struct.pack_into("<I", report, 0x48, signer << 2)
    report[0x50:0x90] = report_data
    return bytes(report)


def tdx_quote(report_data: bytes, *, version: int = 4) -> bytes:
    """Something of the shape of a TDX quote."""
    header = struct.pack("<HHI", version, 2, 0x81) + bytes(40)
    body = bytes(520) + report_data + (bytes(64) if version == 5 else b"")  # version 5: a TD report 1.5
    prefix = struct.pack("<HI", 3, len(body)) if version == 5 else b""
    return header + prefix + body + struct.pack("<I", 100) + bytes(100)


def sgx_quote(report_data: bytes) -> bytes:
    """Something of the shape of an SGX quote."""
    header = struct.pack("<HHI", 3, 2, 0) + bytes(40)
    return header + bytes(320) + report_data + struct.pack("<I", 100) + bytes(100)


def certificate_table(*entries: tuple[bytes, bytes]) -> bytes:
    """A GHCB certificate table of (GUID, certificate)."""
    offset = 24 * (len(entries) + 1)
    rows, certificates = b"", b""
    for guid, certificate in entries:
        rows += guid + struct.pack("<II", offset + len(certificates), len(certificate))
        certificates += certificate
    return rows + bytes(24) + certificates


@dataclass
class Entry:
    """One directory under ``report``."""

    written: int = 0
    answered: int = 0
    inblob: bytes = b""
    privlevel: int = 0
    outblob: bytes = b""

    def advance(self) -> None:
        """try_advance_write_generation: too many writes without a read in between are refused."""
        if self.written == (self.answered - 1) % WORDS:
            raise refuse(errno.EBUSY)
        self.written = (self.written + 1) % WORDS


Hook = Callable[[Path, Entry], None]


@dataclass
class ConfigfsTsm:
    """The folder ``report``. ``provider`` None: the kernel has tsm_report, but no TEE registered with it."""

    tee: Callable[[bytes], bytes] = tdx_quote
    provider: str | None = "tdx_guest"
    table: bytes | None = None
    """What is in ``auxblob``; None: there is no such file, and none to do with privilege levels (as on TDX)."""
    without: tuple[str, ...] = ()
    floor: int = 0
    during: dict[str, Hook] = field(default_factory=dict)
    """By the name of a file: called before the kernel looks at a read of it, and may raise OSError in its place."""
    first: int = 0
    """The generation of a new entry."""
    where: Path = Path()

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.entries: dict[str, Entry] = {}
        self.made: list[str] = []

    def mounted(self, where: Path) -> AbstractContextManager[Path]:
        self.where = where
        return fusefs.mounted(self, where)

    def files(self) -> list[str]:
        names = ["generation", "provider", "inblob", "outblob"]
        if self.table is not None:
            names += ["auxblob", "privlevel", "privlevel_floor"]
        return [name for name in names if name not in self.without]

    def folder(self, path: str) -> bool:
        name, _, attribute = path.partition("/")
        if name and (name not in self.entries or (attribute and attribute not in self.files())):
            raise refuse(errno.ENOENT)
        return not attribute

    def names(self, path: str) -> list[str]:
        return self.files() if path else sorted(self.entries)

    def mkdir(self, path: str) -> None:
        if self.provider is None:
            raise refuse(errno.ENXIO)
        self.entries[path] = Entry(written=self.first, answered=self.first)
        self.made.append(path)

    def rmdir(self, path: str) -> None:
        del self.entries[path]  # configfs does this whoever has a file of it open

    def open(self, path: str) -> TsmFile:
        name, _, attribute = path.partition("/")
        return TsmFile(self, self.where / name, self.entries[name], attribute)


@dataclass
class TsmFile:
    """One open file of an entry."""

    kernel: ConfigfsTsm
    path: Path
    entry: Entry
    name: str
    said: bytes | None = None
    taken: bytearray | None = None

    def read(self) -> bytes:
        if self.said is None:  # configfs_bin_read_iter: filled once for each open file
            self.kernel.during.get(self.name, lambda _path, _entry: None)(self.path, self.entry)
            with self.kernel.lock:
                self.said = self.show()
        return self.said

    def show(self) -> bytes:
        kernel, entry = self.kernel, self.entry
        if self.name in ("outblob", "auxblob"):
            return self.report()
        words = {"generation": entry.written, "provider": kernel.provider, "privlevel_floor": kernel.floor}
        if self.name not in words:
            raise refuse(errno.EACCES)
        return f"{words[self.name]}\n".encode()

    def report(self) -> bytes:
        """tsm_report_read: made anew if something was written since."""
        entry = self.entry
        if not entry.inblob:
            raise refuse(errno.EINVAL)
        if not entry.outblob or entry.answered != entry.written:
            if len(entry.inblob) != REPORT_DATA:  # the provider, and not configfs, is who minds
                raise refuse(errno.EINVAL)
            entry.outblob = self.kernel.tee(entry.inblob)
            entry.answered = entry.written
        return entry.outblob if self.name == "outblob" else self.kernel.table or b""

    def write(self, data: bytes, offset: int) -> None:
        if self.name == "inblob":
            taken = self.taken if self.taken is not None else bytearray()
            if offset + len(data) > REPORT_DATA:
                raise refuse(errno.EFBIG)
            taken[offset : offset + len(data)] = data
            self.taken = taken
        elif self.name == "privlevel":
            with self.kernel.lock:
                if not self.kernel.floor <= int(data) <= 3:
                    raise refuse(errno.EINVAL)
                self.entry.advance()
                self.entry.privlevel = int(data)
        else:
            raise refuse(errno.EACCES)

    def close(self) -> None:
        """configfs_release_bin_file: this is when a binary file is taken, and the result goes nowhere."""
        if self.taken is not None:
            with self.kernel.lock:
                try:
                    self.entry.advance()
                    self.entry.inblob = bytes(self.taken)
                except OSError:
                    pass
                self.taken = None


@dataclass
class Gramine:
    """The folder ``/dev/attestation``. ``kind`` None: gramine-direct, where there are only keys."""

    tee: Callable[[bytes], bytes] = sgx_quote
    kind: str | None = "dcap"
    without: tuple[str, ...] = ()
    during: dict[str, Callable[[], None]] = field(default_factory=dict)
    user_report_data: bytes = bytes(REPORT_DATA)
    quotes: int = 0

    def mounted(self, where: Path) -> AbstractContextManager[Path]:
        return fusefs.mounted(self, where)

    def names(self, path: str) -> list[str]:
        if path:
            return []
        found = ["keys"] if self.kind is None else ["keys", "attestation_type", "user_report_data"]
        found += ["quote"] if self.kind == "dcap" else []
        return [name for name in found if name not in self.without]

    def folder(self, path: str) -> bool:
        if path and path not in self.names(""):
            raise refuse(errno.ENOENT)
        return path in ("", "keys")

    def mkdir(self, path: str) -> None:
        raise refuse(errno.EACCES)

    rmdir = mkdir

    def open(self, path: str) -> GramineFile:
        self.during.get(path, lambda: None)()
        if path == "quote":  # a pseudo-file's content is made when it is opened
            self.quotes += 1
            return GramineFile(self, self.tee(self.user_report_data))
        return GramineFile(self, f"{self.kind}".encode() if path == "attestation_type" else b"")


@dataclass
class GramineFile:
    """One open pseudo-file."""

    gramine: Gramine
    said: bytes
    taken: bytes | None = None

    def read(self) -> bytes:
        return self.said

    def write(self, data: bytes, offset: int) -> None:
        self.taken = ((self.taken or b"")[:offset] + data)[:REPORT_DATA]

    def close(self) -> None:
        """update_buffer: what is short is filled up with zeros, what is long is cut, neither is refused."""
        if self.taken is not None:
            self.gramine.user_report_data = self.taken.ljust(REPORT_DATA, b"\0")
            self.taken = None
