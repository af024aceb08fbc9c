"""Sealed files: opened with their key as they are, and in no other way; and sessions that find what is in them."""

from __future__ import annotations

import hashlib
import io
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from cloister.errors import ConfigurationError, WorkerError
from cloister.net.secrets import SecretName, Secrets
from cloister.node.config import DataSet
from cloister.node.data_files import DataSetEntry, entry_of, unlock
from cloister.node.sealed_file import (
    SEGMENT_BYTES,
    SealedFile,
    check_header,
    new_key,
    open_sealed,
    read_key,
    seal,
    seal_file,
)
from cloister.node.session.child import Assignment, Child, Opening
from cloister.node.session.data_sets import DataSets
from cloister.wire import sessions as m
from cloister.wire.frames import Kind
from cloister.wire.tensors import TensorSpec

KEY, OTHER = bytes(range(32)), bytes(32)
HEADER = 55
SEALED_SEGMENT = SEGMENT_BYTES + 16
BOB = "sha256:" + "b" * 64
LONG = hashlib.shake_128(b"long").digest(2 * SEGMENT_BYTES + 5000)
SIZES = [0, 1, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 2 * SEGMENT_BYTES, len(LONG)]


def sealed(data: bytes, key: bytes = KEY) -> bytes:
    return b"".join(seal(io.BytesIO(data), key=key))


def unsealed(data: bytes, key: bytes = KEY) -> bytes:
    with SealedFile(io.BytesIO(data), key=key, name="mri.npz.sealed") as file:
        return file.read()


@pytest.fixture(scope="module")
def long() -> bytes:
    return sealed(LONG)


@pytest.mark.parametrize("size", SIZES)
def test_round_trip(size: int) -> None:
    data = sealed(LONG[:size])
    assert len(data) == HEADER + size + 16 * max(1, -(-size // SEGMENT_BYTES))
    assert unsealed(data) == LONG[:size]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(LONG) + 10), st.integers(0, 3000)), min_size=1, max_size=8))
def test_it_reads_as_a_file_does(long: bytes, places: list[tuple[int, int]]) -> None:
    with SealedFile(io.BytesIO(long), key=KEY, name="x") as file:
        plain = io.BytesIO(LONG)
        for at, size in places:
            assert file.seek(at) == plain.seek(at)
            assert file.read(size) == plain.read(size)
            assert file.tell() == plain.tell()
            assert file.seek(-5, os.SEEK_END) == plain.seek(-5, os.SEEK_END)
            assert file.read() == plain.read()
        with pytest.raises(ValueError, match="before the start"):
            file.seek(-1)


def test_the_same_file_is_sealed_differently_each_time() -> None:
    assert sealed(b"abc")[HEADER:] != sealed(b"abc")[HEADER:]


def _tampered(long: bytes) -> dict[str, bytes]:
    first, second, rest = (long[at : at + SEALED_SEGMENT] for at in (HEADER + n * SEALED_SEGMENT for n in range(3)))
    header, other = long[:HEADER], sealed(LONG)
    return {
        "cut at a segment": header + first + second,
        "cut to one segment": header + first,
        "cut to the header": header,
        "cut within a segment": long[:-100],
        "cut by a byte": long[:-1],
        "a byte more": long + b"\0",
        "a segment more": long + rest,
        "the last one twice": header + first + second + second,
        "the order changed": header + second + first + rest,
        "a segment left out": header + second + rest,
        "another file's segment": header + first + other[HEADER + SEALED_SEGMENT :][:SEALED_SEGMENT] + rest,
        "another file's header": other[:HEADER] + long[HEADER:],
        "another version": long[:15] + b"\2" + long[16:],
        "no magic": b"C" + long[1:],
        "no header": long[: HEADER - 1],
        "nothing": b"",
    }


@pytest.mark.slow
@pytest.mark.parametrize("what", _tampered(bytes(HEADER + 2 * SEALED_SEGMENT + 5016)))
def test_tampering(long: bytes, what: str) -> None:
    with pytest.raises(ConfigurationError, match=r"mri\.npz\.sealed"):
        unsealed(_tampered(long)[what])


def test_every_flip_of_a_short_file() -> None:
    data = sealed(b"a few bytes")
    for at in range(len(data)):
        for bit in (1, 128):
            changed = bytearray(data)
            changed[at] ^= bit
            with pytest.raises(ConfigurationError):
                unsealed(bytes(changed))


def test_a_change_is_noticed_where_it_is_read(long: bytes) -> None:
    changed = bytearray(long)
    changed[HEADER + SEALED_SEGMENT + 7] ^= 1  # in the second of three segments
    with SealedFile(io.BytesIO(changed), key=KEY, name="x") as file:
        assert file.read(100) == LONG[:100]
        file.seek(SEGMENT_BYTES - 1)
        with pytest.raises(ConfigurationError):
            file.read(2)


@pytest.mark.parametrize("key", [OTHER, KEY[:-1], KEY + b"\0", b""])
def test_another_key(long: bytes, key: bytes) -> None:
    with pytest.raises(ConfigurationError):
        unsealed(long, key)


@given(st.binary(max_size=300))
def test_garbage(data: bytes) -> None:
    for garbage in (data, sealed(b"")[:HEADER] + data):
        with pytest.raises(ConfigurationError):
            unsealed(garbage)


def test_key_files(tmp_path: Path) -> None:
    key = new_key(tmp_path / "a.key")
    assert read_key(tmp_path / "a.key") == key != new_key(tmp_path / "b.key")
    with pytest.raises(ConfigurationError, match="File exists"):
        new_key(tmp_path / "a.key")
    with pytest.raises(ConfigurationError, match="No such file"):
        read_key(tmp_path / "none.key")


def test_a_failure_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.npz").write_bytes(b"abc")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cloister.node.sealed_file._Segments.seal", fail)
    with pytest.raises(ConfigurationError, match="No space"):
        seal_file(tmp_path / "a.npz", tmp_path / "a.npz.sealed", key=KEY)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


# Data sets: locked, and unlocked.


@pytest.fixture
def data_sets(tmp_path: Path) -> list[DataSet]:
    folder = tmp_path / "plain"
    folder.mkdir()
    np.savez(folder / "a.npz", x=np.arange(6.0).reshape(2, 3))
    np.savez_compressed(folder / "b.npz", x=np.arange(6))
    save_file(
        {"y": torch.arange(4, dtype=torch.bfloat16), "z": torch.tensor(7.0), "e": torch.zeros(0, 3)},
        folder / "c.safetensors",
    )
    for path in folder.iterdir():
        seal_file(path, tmp_path / f"{path.name}.sealed", key=KEY)
    name = SecretName("mri-key", BOB)
    return [
        DataSet((f"#{file[0]}{tensor}",), tmp_path / f"{file}.sealed", tensor, True, name)
        for file, tensor in (
            ("a.npz", "x"),
            ("b.npz", "x"),
            ("c.safetensors", "y"),
            ("c.safetensors", "z"),
            ("c.safetensors", "e"),
        )
    ]


def provisioned(key: bytes = KEY, sender: str = BOB) -> Secrets:
    secrets = Secrets()
    secrets.keep("mri-key", key, sender=sender)
    return secrets


def unlocked(data_sets: list[DataSet], secrets: Secrets) -> tuple[DataSetEntry, ...]:
    return unlock([entry_of(data_set) for data_set in data_sets], data_sets=data_sets, secrets=secrets)


def test_every_format_opens(data_sets: list[DataSet]) -> None:
    found = [tensor for _, tensor in DataSets(unlocked(data_sets, provisioned())).search([])]
    expected = [
        torch.arange(6.0, dtype=torch.float64).reshape(2, 3),
        torch.arange(6),
        torch.arange(4, dtype=torch.bfloat16),
        torch.tensor(7.0),
        torch.zeros(0, 3),
    ]
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("secrets", [Secrets(), provisioned(sender="sha256:" + "e" * 64)])
def test_locked_without_the_key_or_from_somebody_else(data_sets: list[DataSet], secrets: Secrets) -> None:
    opened = DataSets(unlocked(data_sets, secrets))
    with pytest.raises(WorkerError, match=r"#ax is locked: its key has not been provisioned yet"):
        opened.search(["#ax"])
    assert opened.search(["#none"]) == []


@pytest.mark.parametrize("key", [OTHER, b"short"])
def test_a_key_that_does_not_open_it(data_sets: list[DataSet], key: bytes) -> None:
    with pytest.raises(WorkerError, match="does not open its file"):
        DataSets(unlocked(data_sets, provisioned(key))).search(["#ax"])


def test_a_closed_data_set_keeps_its_key_from_sessions(data_sets: list[DataSet]) -> None:
    first = data_sets[0]
    closed = DataSet(first.tags, first.path, first.tensor, False, first.key)
    (entry,) = unlocked([closed], provisioned())
    assert entry.spec == TensorSpec("float64", (2, 3))
    assert entry.key is None


def test_a_file_that_is_swapped_after_it_was_unlocked(data_sets: list[DataSet]) -> None:
    opened = DataSets(unlocked(data_sets[:1], provisioned()))
    data_sets[0].path.write_bytes(sealed(b"another", OTHER))
    with pytest.raises(WorkerError, match="cannot be read"):
        opened.search([])


def test_a_file_that_is_not_sealed(tmp_path: Path, data_sets: list[DataSet]) -> None:
    plain = tmp_path / "plain" / "a.npz"
    with pytest.raises(ConfigurationError, match="not a sealed file"):
        check_header(plain)
    for path in (plain, tmp_path / "none.npz.sealed"):
        with pytest.raises(ConfigurationError):
            entry_of(DataSet(("#t",), path, "x", True, SecretName("mri-key", BOB)))


def test_nothing_prints_the_key(data_sets: list[DataSet]) -> None:
    (entry,) = unlocked(data_sets[:1], provisioned())
    assert entry.key == KEY
    for shown in (repr(entry), repr(Opening((entry,)))):
        assert repr(KEY)[2:-1] not in shown
        assert "key" not in shown


@pytest.mark.slow
def test_memory_is_bounded_while_one_tensor_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", small=np.arange(1000), large=np.zeros(24 * SEGMENT_BYTES, np.uint8))
    save_file({"small": torch.arange(1000), "large": torch.zeros(24 * SEGMENT_BYTES)}, tmp_path / "b.safetensors")
    for name in ("a.npz", "b.safetensors"):
        seal_file(tmp_path / name, tmp_path / f"{name}.sealed", key=KEY)
        data_set = DataSet(("#t",), tmp_path / f"{name}.sealed", "small", True, SecretName("k", BOB))
        tracemalloc.start()
        try:
            opened = DataSets([entry_of(data_set, key=KEY)])
            ((_, tensor),) = opened.search([])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert torch.equal(tensor, torch.arange(1000))
        assert peak < 5 * SEGMENT_BYTES


# Real processes.


ASSIGNMENT = Assignment(listener=os.getpid(), memory_bytes=1 << 28, objects=100, device="cpu", threads=1)


@pytest.mark.slow
def test_an_executor_without_a_session_ends_with_its_listener() -> None:
    child = Child.start(ASSIGNMENT)
    assert child.wait_ready(within_s=60)
    child._process.tell(b"", last=True)
    assert child.reason() == "it exited with status 0"
    child.end()


@pytest.mark.slow
def test_an_executor_with_the_key_finds_it_and_one_without_does_not(data_sets: list[DataSet]) -> None:
    answers: list[tuple[Kind, Any]] = []
    for secrets in (Secrets(), provisioned()):
        child = Child.start(ASSIGNMENT)
        try:
            assert child.wait_ready(within_s=60)
            child.open(unlocked(data_sets, secrets))
            for place in ("cmdline", "environ"):
                shown = Path(f"/proc/{child.pid}/{place}").read_bytes()
                assert KEY not in shown
                assert KEY.hex().encode() not in shown
            child.session.send(Kind.ASK, m.Ask([], m.Search(("#ax",), 1)))
            frame = child.session.receive()
            answers.append((frame.kind, frame.message(m.VOCABULARY)))
            child.session.send(Kind.ASK, m.Ask([], m.Fetch((1,))))
            frame = child.session.receive()
            answers.append((frame.kind, b"".join(map(bytes, child.session.pieces(frame.body_bytes)))))
        finally:
            child.end()
    assert [kind for kind, _ in answers] == [Kind.FAILURE, Kind.FAILURE, Kind.ANSWER, Kind.ANSWER]
    assert answers[0][1].code == WorkerError.code
    assert "its key has not been provisioned yet" in answers[0][1].text
    assert answers[2][1].matches[0].tags == ("#ax",)
    assert answers[3][1] == np.arange(6.0).tobytes()


def test_plaintext_is_written_nowhere(
    data_sets: list[DataSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with open_sealed(data_sets[0].path, key=KEY) as file:
        assert file.read(2) == b"PK"
    DataSets(unlocked(data_sets, provisioned())).search([])
    assert sorted(tmp_path.rglob("*")) == before
