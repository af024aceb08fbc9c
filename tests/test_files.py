"""Files that somebody else may have written: none of them makes a reader wait, or is read further than it may be."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from cloister import files
from cloister.errors import CharterError, ConfigurationError


def special(folder: Path, kind: str) -> Path:
    """A file of that kind; a pipe that nobody writes to, above all."""
    path = folder / kind
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            return Path("/dev/zero")
        case "socket":
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(str(path))
        case "link to a pipe":
            os.mkfifo(folder / "behind")
            path.symlink_to(folder / "behind")
        case "link to itself":
            path.symlink_to(path)
    return path


SPECIAL = ("pipe", "folder", "device", "socket", "link to a pipe", "link to itself")


@pytest.mark.parametrize("kind", SPECIAL)
def test_nothing_but_a_regular_file_is_read(kind: str, tmp_path: Path) -> None:
    path = special(tmp_path, kind)
    with pytest.raises(OSError, match=r"regular file|symbolic links|No such device"):
        files.read(path, limit=10)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        files.read_text(path, limit=10)


def test_a_file_of_the_limit_is_read_and_one_byte_more_is_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    assert files.read(path, limit=10) == b"x" * 10
    with pytest.raises(OSError, match="longer than 9 bytes"):
        files.read(path, limit=9)


def test_a_terabyte_of_nothing_is_refused_by_its_length(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="longer than"):
        files.read(path, limit=1 << 20)


def test_a_file_that_grows_is_read_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    real = os.fstat

    def stat_then_grow(descriptor: int) -> os.stat_result:
        found = real(descriptor)
        with path.open("ab") as file:
            file.write(b"x")
        return found

    monkeypatch.setattr(files.os, "fstat", stat_then_grow)
    with pytest.raises(OSError, match="longer than 10 bytes"):
        files.read(path, limit=10)


def test_what_the_kernel_writes_is_read_within_the_limit() -> None:
    """Such a file says that it has no bytes, and has some."""
    assert files.read("/proc/self/comm", limit=64)
    with pytest.raises(OSError, match="longer than 4 bytes"):
        files.read("/proc/self/status", limit=4)


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to("file")
    assert files.read_text(tmp_path / "link", limit=4) == "text"


def test_what_is_no_text_is_told_as_the_callers_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff")
    with pytest.raises(CharterError, match="is not UTF-8 text; write another"):
        files.read_text(tmp_path / "file", limit=4, error=CharterError, hint="write another")


def test_no_line_is_read_further_than_one_byte_too_many(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"ab\n" + b"c" * 10 + b"\nd")
    assert list(files.lines(tmp_path / "file", limit=4)) == [b"ab\n", b"ccccc", b"ccccc", b"\n", b"d"]


def test_of_a_folder_with_too_many_files_one_more_is_found_than_may_be(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.sig").touch()
    assert len(files.matching(tmp_path, "*.sig", limit=3)) == 4
    assert [path.name for path in files.matching(tmp_path, "*.sig", limit=9)] == [f"{n}.sig" for n in range(5)]
