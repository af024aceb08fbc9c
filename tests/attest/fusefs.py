"""A small FUSE server, so that tests can put a file system in the place of a kernel's. No library is needed.

It speaks the protocol of Linux's include/uapi/linux/fuse.h, version 7.31, as far as open, read, write, close, mkdir,
rmdir and listing go. Nothing is cached: every system call of a user reaches ``Tree``. Mounting needs root.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import itertools
import os
import stat
import struct
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

THREADS = 4  # so that one request may wait for another, as in a kernel
MAX_WRITE = 1 << 16
(LOOKUP, FORGET, GETATTR, SETATTR, MKDIR, RMDIR, OPEN, READ, WRITE, RELEASE, FLUSH, INIT, OPENDIR, READDIR) = (
    *(1, 2, 3, 4, 9, 11, 14, 15, 16, 18, 25, 26, 27, 28),
)
RELEASEDIR, INTERRUPT, BATCH_FORGET = 29, 36, 42
SILENT = (FORGET, BATCH_FORGET, INTERRUPT)
DIRECT_IO = 1
MNT_DETACH = 2


class Handle(Protocol):
    """A file that somebody has open."""

    def read(self) -> bytes: ...
    def write(self, data: bytes, offset: int) -> None: ...
    def close(self) -> None: ...


class Tree(Protocol):
    """What is in the file system, by path: the root is ``""``. Refuses with OSError."""

    def folder(self, path: str) -> bool: ...  # or FileNotFoundError
    def names(self, path: str) -> list[str]: ...
    def mkdir(self, path: str) -> None: ...
    def rmdir(self, path: str) -> None: ...
    def open(self, path: str) -> Handle: ...


class Server:
    """Answers the kernel's requests about one mount."""

    def __init__(self, tree: Tree, device: int) -> None:
        self.tree, self.device = tree, device
        self.lock = threading.Lock()
        self.paths = {1: ""}
        self.handles: dict[int, Handle] = {}
        self.numbers = itertools.count(2)
        self.act = {
            INIT: self.init, LOOKUP: self.lookup, GETATTR: self.attributes, SETATTR: self.attributes,
            MKDIR: self.mkdir, RMDIR: self.rmdir, OPEN: self.open, READ: self.read, WRITE: self.write,
            FLUSH: self.flush, RELEASE: self.release, OPENDIR: self.opendir, READDIR: self.readdir,
            RELEASEDIR: lambda _node, _body: b"",
        }  # fmt: skip

    def serve(self) -> None:
        while True:
            try:
                request = os.read(self.device, MAX_WRITE + 4096)
            except OSError as fault:
                if fault.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    continue
                return  # unmounted
            _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
            if opcode not in SILENT:
                self.answer(unique, *self.outcome(opcode, node, request[40:]))

    def outcome(self, opcode: int, node: int, body: bytes) -> tuple[int, bytes]:
        if opcode not in self.act:
            return errno.ENOSYS, b""
        try:
            return 0, self.act[opcode](node, body)
        except OSError as fault:
            return fault.errno or errno.EIO, b""
        except (LookupError, ValueError):  # gone in the meantime, or no number
            return errno.EINVAL, b""

    def answer(self, unique: int, error: int, body: bytes) -> None:
        with contextlib.suppress(OSError):  # the one who asked is gone
            os.write(self.device, struct.pack("<IiQ", 16 + len(body), -error, unique) + body)

    def init(self, _node: int, _body: bytes) -> bytes:
        return struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 0, 0, MAX_WRITE, 1, 0, 0, 0)

    def entry(self, path: str) -> bytes:
        attributes = self.describe(path)
        with self.lock:
            known = {known: node for node, known in self.paths.items()}
            node = known.get(path) or next(self.numbers)
            self.paths[node] = path
        return struct.pack("<QQQQII", node, 0, 0, 0, 0, 0) + attributes

    def describe(self, path: str) -> bytes:
        mode = stat.S_IFDIR | 0o755 if self.tree.folder(path) else stat.S_IFREG | 0o644
        return struct.pack("<6Q10I", 1, 4096, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def child(self, node: int, body: bytes) -> str:
        return f"{self.paths[node]}/{body.rstrip(bytes(1)).decode()}".lstrip("/")

    def lookup(self, node: int, body: bytes) -> bytes:
        return self.entry(self.child(node, body))

    def attributes(self, node: int, _body: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + self.describe(self.paths[node])

    def mkdir(self, node: int, body: bytes) -> bytes:
        path = self.child(node, body[8:])
        self.tree.mkdir(path)
        return self.entry(path)

    def rmdir(self, node: int, body: bytes) -> bytes:
        self.tree.rmdir(self.child(node, body))
        return b""

    def open(self, node: int, _body: bytes) -> bytes:
        handle = self.tree.open(self.paths[node])
        number = next(self.numbers)
        self.handles[number] = handle
        return struct.pack("<QII", number, DIRECT_IO, 0)

    def read(self, _node: int, body: bytes) -> bytes:
        number, offset, size = struct.unpack_from("<QQI", body)
        return self.handles[number].read()[offset : offset + size]

    def write(self, _node: int, body: bytes) -> bytes:
        number, offset, size = struct.unpack_from("<QQI", body)
        self.handles[number].write(body[40 : 40 + size], offset)
        return struct.pack("<II", size, 0)

    def flush(self, _node: int, body: bytes) -> bytes:
        """What happens at close(2): unlike at RELEASE, whoever closes waits for it."""
        self.handles[struct.unpack_from("<Q", body)[0]].close()
        return b""

    def release(self, _node: int, body: bytes) -> bytes:
        self.handles.pop(struct.unpack_from("<Q", body)[0])
        return b""

    def opendir(self, _node: int, _body: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0)

    def readdir(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        listing = b""
        for number, name in enumerate(self.tree.names(self.paths[node])[offset:], offset + 1):
            raw = name.encode()
            row = struct.pack("<QQII", 1, number, len(raw), 0) + raw
            row += bytes(-len(row) % 8)
            if len(listing) + len(row) > size:
                break
            listing += row
        return listing


@contextlib.contextmanager
def mounted(tree: Tree, where: Path) -> Iterator[Path]:
    """Shows ``tree`` at ``where``, a folder that is there.

    Raises:
        OSError: this process may not mount.
    """
    system = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
        if system.mount(b"test", os.fsencode(where), b"fuse.test", 0, options) != 0:
            raise OSError(ctypes.get_errno(), f"no FUSE file system can be mounted at {where}")
        server = Server(tree, device)
        threads = [threading.Thread(target=server.serve, daemon=True) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        try:
            yield where
        finally:
            system.umount2(os.fsencode(where), MNT_DETACH)
            for thread in threads:
                thread.join(timeout=10)
    finally:
        os.close(device)


class _Nothing:
    def folder(self, path: str) -> bool:
        if path:
            raise FileNotFoundError(errno.ENOENT, path)
        return True


@functools.cache
def why_not() -> str | None:
    """Why no FUSE file system can be mounted here, if so."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with mounted(_Nothing(), Path(folder)):  # type: ignore[arg-type]
                return None
        except (OSError, AttributeError) as fault:
            return f"the stand-in for the kernel needs FUSE, which cannot be mounted here ({fault}): be root"


needs_fuse = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
