"""`cloister data`: what a person sees who seals a data set."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from cloister.cli import main
from cloister.node.sealed_file import open_sealed, read_key

Run = Callable[..., tuple[int, str, str]]
DATA = bytes(range(256)) * 10


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mri.npz").write_bytes(DATA)
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(words)
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err.replace("\n", " ")

    return run


def unsealed(path: str, key: str) -> bytes:
    with open_sealed(Path(path), key=read_key(Path(key))) as file:
        return file.read()


def test_seal_makes_a_key_and_says_what_to_do_with_it(run: Run, folder: Path) -> None:
    code, out, err = run("data", "seal", "mri.npz", "--out", "far.npz.sealed", "--key", "mri.key")
    assert (code, err) == (0, "")
    assert unsealed("far.npz.sealed", "mri.key") == DATA
    assert stat.S_IMODE((folder / "mri.key").stat().st_mode) == 0o600
    assert "mri.key, made just now" in out
    assert 'file = "far.npz.sealed"\n  key = "mri"\n  key_from = "sha256:...' in out
    assert (folder / "mri.key").read_bytes().hex() not in out
    assert DATA[:64] not in (folder / "far.npz.sealed").read_bytes()


def test_seal_with_nothing_said(run: Run, folder: Path) -> None:
    assert run("data", "seal", "mri.npz")[0] == 0
    assert unsealed("mri.npz.sealed", "mri.npz.key") == DATA


def test_seal_uses_a_key_that_is_there(run: Run, folder: Path) -> None:
    run("data", "seal", "mri.npz", "--key", "mri.key")
    before = (folder / "mri.key").read_bytes()
    code, out, _ = run("data", "seal", "mri.npz", "--key", "mri.key", "--out", "again.npz.sealed")
    assert code == 0
    assert "which was there already" in out
    assert "take a key for each" in out
    assert (folder / "mri.key").read_bytes() == before
    assert unsealed("again.npz.sealed", "mri.key") == DATA


def test_seal_overwrites_nothing(run: Run, folder: Path) -> None:
    (folder / "mri.npz.sealed").write_bytes(b"precious")
    code, _, err = run("data", "seal", "mri.npz", "--key", "mri.key")
    assert code == 1
    assert "exists and is not overwritten" in err
    assert (folder / "mri.npz.sealed").read_bytes() == b"precious"
    assert not (folder / "mri.key").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["none.npz"], "there is no file none.npz"),
        (["mri.csv"], "an .npz or a .safetensors file"),
        (["mri.npz", "--out", "mri.sealed"], "ends in .npz.sealed"),
        (["mri.npz", "--out", "mri.safetensors.sealed"], "ends in .npz.sealed"),
        (["mri.npz", "--out", "none/mri.npz.sealed"], "No such file"),
        (["mri.npz", "--key", "none/mri.key"], "cannot be written"),
    ],
)
def test_what_cannot_be_sealed(run: Run, folder: Path, words: list[str], text: str) -> None:
    code, _, err = run("data", "seal", *words)
    assert code == 1
    assert text in err
    assert not list(folder.rglob("*.sealed"))


@pytest.mark.parametrize(("data", "mode", "text"), [(b"short", 0o600, "32 bytes"), (bytes(32), 0o644, "chmod 600")])
def test_keys_that_are_none(run: Run, folder: Path, data: bytes, mode: int, text: str) -> None:
    (folder / "mri.key").write_bytes(data)
    (folder / "mri.key").chmod(mode)
    code, _, err = run("data", "seal", "mri.npz", "--key", "mri.key")
    assert code == 1
    assert text in err
