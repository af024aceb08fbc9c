"""Sealed files: a data set at rest on a machine that is not its owner's, closed to all but who has its key.

Streaming authenticated encryption, the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár, "Online Authenticated-
Encryption and its Nonce-Reuse Misuse-Resistance", CRYPTO 2015, section 7), in the shape of Tink's AES-GCM-HKDF:

    header   magic (15 bytes), version (1), salt (32), nonce prefix (7)
    segment  AES-256-GCM of 1 MiB, the last one of what is left; each with a tag of 16 bytes

The file's own key is HKDF-SHA-256 of the owner's key, with the salt, and the whole header as info. A segment's nonce is
the prefix, its number (u32, big-endian) and whether it is the last one (one byte): a segment that was changed, moved,
left out or taken from another file does not open, and a file that was cut short or added to has no last segment.
"""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cloister import files
from cloister.errors import ConfigurationError

KEY_BYTES: Final = 32
SEGMENT_BYTES: Final = 1 << 20
"""Of plaintext: what has to be read, and fits in memory, for one byte."""

_MAGIC: Final = b"cloister sealed"
_VERSION: Final = b"\x01"
_SALT_BYTES: Final = 32
_PREFIX_BYTES: Final = 7
_HEADER_BYTES: Final = len(_MAGIC) + 1 + _SALT_BYTES + _PREFIX_BYTES
_TAG_BYTES: Final = 16
_SEALED_BYTES: Final = SEGMENT_BYTES + _TAG_BYTES
_SEGMENTS: Final = 1 << 32


class _Segments:
    """One file's key and nonces."""

    def __init__(self, header: bytes, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ConfigurationError(f"the key of a sealed file has {KEY_BYTES} bytes, not {len(key)}")
        salt = header[len(_MAGIC) + 1 :][:_SALT_BYTES]
        self._cipher = AESGCM(HKDF(algorithm=SHA256(), length=32, salt=salt, info=header).derive(key))
        self._prefix = header[-_PREFIX_BYTES:]

    def _nonce(self, number: int, last: bool) -> bytes:
        return self._prefix + number.to_bytes(4) + bytes([last])

    def seal(self, plain: bytes, *, number: int, last: bool) -> bytes:
        return self._cipher.encrypt(self._nonce(number, last), plain, None)

    def open(self, sealed: bytes, *, number: int, last: bool) -> bytes:
        """Raises ``InvalidTag``."""
        return self._cipher.decrypt(self._nonce(number, last), sealed, None)


class SealedFile(io.RawIOBase):
    """What is in a sealed file, to be read in any order: nothing is given out that was not authenticated, and no more
    than one segment is held. Closes ``file`` with itself.

    Raises:
        ConfigurationError: at once, if the file is none, was cut short or added to, or was sealed with another key;
            when it reads, if what it reads was changed. The message says ``name``.
        OSError: the file cannot be read.
    """

    def __init__(self, file: IO[bytes], *, key: bytes, name: str) -> None:
        self._file = file
        self._name = name
        self._segments = _Segments(_read_header(file, name), key)
        body = file.seek(0, os.SEEK_END) - _HEADER_BYTES
        self._count = max(1, -(-body // _SEALED_BYTES))
        self._size = body - self._count * _TAG_BYTES
        self._at = 0
        self._held: tuple[int, bytes] = (-1, b"")
        if self._size < 0 or self._count > _SEGMENTS:
            raise self._broken()
        self._segment(self._count - 1)  # only where it is the file's true end does it open as the last one

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError("a place before the start of the file")
        self._at = start + offset
        return self._at

    def readinto(self, into: Any) -> int:
        """Fills all of ``into``, unless the file ends before."""
        room = memoryview(into).cast("B")
        filled = 0
        while filled < len(room) and self._at < self._size:
            number, offset = divmod(self._at, SEGMENT_BYTES)
            piece = memoryview(self._segment(number))[offset : offset + len(room) - filled]
            room[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._at += len(piece)
        return filled

    def close(self) -> None:
        """Forgets what it holds, and closes the file."""
        self._held = (-1, b"")
        self._file.close()
        super().close()

    def _segment(self, number: int) -> bytes:
        if self._held[0] != number:
            self._file.seek(_HEADER_BYTES + number * _SEALED_BYTES)
            sealed = self._file.read(_SEALED_BYTES)
            try:
                self._held = number, self._segments.open(sealed, number=number, last=number == self._count - 1)
            except InvalidTag:
                raise self._broken() from None
        return self._held[1]

    def _broken(self) -> ConfigurationError:
        return ConfigurationError(
            f"{self._name} does not open: it was sealed with another key, or has been changed or cut since; copy it"
            " anew from where it was sealed"
        )


def check_header(path: Path) -> None:
    """That a file looks like a sealed one, which is all that can be seen without its key.

    Raises:
        ConfigurationError: it does not. OSError: it cannot be read.
    """
    with files.opened(path) as file:
        _read_header(file, str(path))


def open_sealed(path: Path, *, key: bytes) -> SealedFile:
    """What is in the sealed file at ``path``.

    Raises:
        ConfigurationError: as ``SealedFile``. OSError: it cannot be read.
    """
    file = files.open_regular(path)
    try:
        return SealedFile(file, key=key, name=str(path))
    except BaseException:
        file.close()
        raise


def seal_file(source: Path, target: Path, *, key: bytes) -> None:
    """Writes what is in ``source``, sealed, to the new file ``target``. Holds a few segments in memory.

    Raises:
        ConfigurationError: ``source`` cannot be read, ``target`` exists or cannot be written.
    """
    try:
        with files.opened(source) as file:
            _write(target, seal(file, key=key))
    except FileExistsError:
        raise ConfigurationError(f"{target} exists and is not overwritten; name another file with --out") from None
    except OSError as fault:
        raise ConfigurationError(f"{fault.filename or target}: {fault.strerror or 'it cannot be read'}") from None


def seal(file: IO[bytes], *, key: bytes) -> Iterator[bytes]:
    """The sealed form of all that is left to read in ``file``, piece by piece."""
    header = _MAGIC + _VERSION + secrets.token_bytes(_SALT_BYTES + _PREFIX_BYTES)
    segments = _Segments(header, key)
    yield header
    plain, number = file.read(SEGMENT_BYTES), 0
    while more := file.read(SEGMENT_BYTES):
        yield segments.seal(plain, number=number, last=False)
        plain, number = more, number + 1
        if number == _SEGMENTS:
            raise ConfigurationError(f"a sealed file holds at most {_SEGMENTS} MiB")
    yield segments.seal(plain, number=number, last=True)


def new_key(path: Path) -> bytes:
    """A new key, written to the new file ``path``, which only its owner may read.

    Raises:
        ConfigurationError: the file exists or cannot be written.
    """
    key = secrets.token_bytes(KEY_BYTES)
    try:
        with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(key)
    except OSError as fault:
        raise ConfigurationError(f"{path} cannot be written: {fault.strerror}") from None
    return key


def read_key(path: Path) -> bytes:
    """The key in a file: its 32 bytes and nothing else.

    Raises:
        ConfigurationError: it cannot be read, others may read it, or it holds no key.
    """
    try:
        with files.opened(path) as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(KEY_BYTES + 1)
    except OSError as fault:
        raise ConfigurationError(f"{path} cannot be read: {fault.strerror}") from None
    if mode & 0o077:
        raise ConfigurationError(f"{path} holds a key and others may read it: run `chmod 600 {path}`")
    if len(key) != KEY_BYTES:
        raise ConfigurationError(
            f"{path} is not the key of a sealed file, which has {KEY_BYTES} bytes; name one from `cloister data seal`"
        )
    return key


def _read_header(file: IO[bytes], name: str) -> bytes:
    header = file.read(_HEADER_BYTES)
    if len(header) != _HEADER_BYTES or not header.startswith(_MAGIC):
        raise ConfigurationError(f"{name} is not a sealed file; `cloister data seal` makes one")
    if header[len(_MAGIC) :][:1] != _VERSION:
        raise ConfigurationError(f"{name} was sealed by another version of cloister; seal it anew with this one")
    return header


def _write(target: Path, pieces: Iterator[bytes]) -> None:
    with target.open("xb") as file:
        try:
            file.writelines(pieces)
        except BaseException:
            with suppress(OSError):
                target.unlink()  # without its last segment it would be no file that opens, but it would be in the way
            raise
