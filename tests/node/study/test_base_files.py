"""The files of base models at a node: read whole once, and again only when they have changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from cloister.errors import ConfigurationError, DataSetError
from cloister.files import open_regular
from cloister.node.config import BaseFile
from cloister.node.study import base_files
from cloister.node.study.base_files import BaseFiles
from tests.support.charters import charter


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"model-{number}.safetensors" for number in range(2)]
    for number, path in enumerate(found):
        path.write_bytes(bytes([number]) * (3 << 20))
    return found


def of(paths: list[Path]) -> BaseFiles:
    return BaseFiles(BaseFile(path) for path in paths)


def sha256(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def rewrite(path: Path, data: bytes) -> None:
    """Writes it, and sets the times back, as an archive does."""
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # a file system's clock has ticks
        path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_files_are_known_by_their_digests(paths: list[Path]) -> None:
    files = of(paths)
    assert files.digests() == {path: sha256(path) for path in paths}
    wanted = sorted(map(sha256, paths))
    found = files.those([wanted[1], wanted[0], wanted[1]])
    assert [each.digest for each in found] == wanted
    assert {each.path: each.digest for each in found} == {str(path): sha256(path) for path in paths}
    assert [each.identity[1] for each in found] == [3 << 20] * 2
    assert of(paths).those([]) == ()


def test_a_file_that_is_gone_stops_no_job_that_does_not_read_it(paths: list[Path], tmp_path: Path) -> None:
    files, wanted = of([tmp_path / "gone.safetensors", *paths]), sha256(paths[1])
    assert files.those([]) == ()
    assert [each.digest for each in files.those([wanted])] == [wanted]
    with pytest.raises(DataSetError, match="cannot be read at its node"):
        files.those([bytes(32)])


def test_for_a_job_without_a_base_nothing_is_read(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_files, "open_regular", lambda path: pytest.fail(f"{path} is opened"))
    assert of(paths).those([]) == ()


def test_a_file_is_read_once(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    files, wanted = of(paths), [*map(sha256, paths)]
    before = files.those(wanted)
    read: list[str] = []
    real = hashlib.file_digest
    monkeypatch.setattr(base_files.hashlib, "file_digest", lambda *given: read.append("read") or real(*given))
    assert files.those(wanted) == before
    assert not read
    assert of(paths).those(wanted) == before
    assert len(read) == 2


def test_a_file_that_has_changed_is_read_again_though_its_length_and_times_are_as_before(paths: list[Path]) -> None:
    files, old = of(paths), sha256(paths[0])
    (before,) = files.those([old])
    rewrite(paths[0], bytes([9]) * (3 << 20))
    with pytest.raises(DataSetError, match=old.hex()):
        files.those([old])
    (after,) = files.those([sha256(paths[0])])
    assert after.identity != before.identity
    assert after.identity[:3] == before.identity[:3]


def test_a_file_that_is_not_here_is_told_by_its_digest_alone(paths: list[Path]) -> None:
    missing = bytes([5]) * 32
    with pytest.raises(DataSetError) as caught:
        of(paths).those([sha256(paths[0]), missing])
    assert f"SHA-256 {missing.hex()} is not at this node: its owner names it under [[models]]" in str(caught.value)
    assert str(paths[0].parent) not in str(caught.value)


def test_a_file_that_cannot_be_read_is_told_to_its_owner_with_its_path_and_to_others_without(paths: list[Path]) -> None:
    gone = [*paths, paths[0].with_name("gone.safetensors")]
    with pytest.raises(ConfigurationError, match=r"gone\.safetensors, under \[\[models\]\], cannot be read: No such"):
        of(gone).digests()
    with pytest.raises(DataSetError) as caught:
        of(gone).those([bytes(32)])
    assert str(caught.value) == "a file of a base model cannot be read at its node, whose log says why"
    os.mkfifo(gone[2])
    with pytest.raises(ConfigurationError, match="no regular file"):
        of(gone).digests()


def test_a_file_that_is_being_written_to_has_no_digest_yet(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody appends to it after the first piece of it was read."""

    class Growing:
        def __init__(self, file: BinaryIO, path: Path) -> None:
            self.file, self.path = file, path

        def __enter__(self) -> Growing:
            return self

        def __exit__(self, *_: Any) -> None:
            self.file.close()

        def fileno(self) -> int:
            return self.file.fileno()

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:
            if self.file.tell() == 0:
                with self.path.open("ab") as writer:
                    writer.write(b"more")
            return self.file.readinto(buffer)  # type: ignore[attr-defined, no-any-return]

    files = of(paths[:1])
    with monkeypatch.context() as patched:
        patched.setattr(base_files, "open_regular", lambda path: Growing(open_regular(path), path))
        with pytest.raises(ConfigurationError, match="is being written to: start once it is whole"):
            files.digests()
    assert files.digests() == {paths[0]: sha256(paths[0])}


def test_what_a_charter_names_and_is_not_here_is_told_before_a_round_is(paths: list[Path]) -> None:
    here, gone = sha256(paths[1]).hex(), "5a" * 32
    agreed = charter(limits=f'[[bases]]\nname = "gpt2"\nfiles = ["{here}", "{gone}"]\n')
    (told,) = of(paths).missing(agreed)
    assert f"base gpt2 of stroke-study: 1 of its 2 files are not here, the first with the SHA-256 {gone}: get" in told
    assert not [*of([*paths, paths[0].with_name("gone.safetensors")]).missing(charter())]  # and nothing is read for it
