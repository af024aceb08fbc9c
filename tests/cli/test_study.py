"""`cloister study`: a study file for a person to read."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloister.cli.main import main
from cloister.cli.study import app
from tests.study.test_study_file import written


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two that differ in their steps."""
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "other")]
    return written(folders[0]), written(folders[1], steps=10)


def ran(*words: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, list(words))
    return found.exit_code, found.output


@pytest.mark.slow
def test_a_study_is_shown_compared_and_unpacked(studies: tuple[Path, Path], tmp_path: Path) -> None:
    one, other = map(str, studies)
    code, shown = ran("show", one)
    assert code == 0
    assert "what leaves this machine" in shown
    assert len(ran("show", "--code", one)[1]) > len(shown)
    assert "+  steps               10 of every owner in every round" in ran("diff", one, other)[1].splitlines()
    assert ran("diff", one, one) == (0, "they say the same\n")
    assert ran("unpack", one, str(tmp_path / "c.toml"))[0] == 0
    assert (tmp_path / "c.toml").read_text() == (studies[0].parent / "charter.toml").read_text()


@pytest.mark.slow
def test_the_signatures_of_a_study_lie_where_those_of_its_charter_are_looked_for(
    studies: tuple[Path, Path], tmp_path: Path
) -> None:
    study = tmp_path / "stay.study"
    study.write_bytes(studies[0].read_bytes())
    signatures = tmp_path / "stay.sigs"
    signatures.mkdir()
    (signatures / "hill.sig").write_text("hill's")
    code, said = ran("unpack", str(study))
    assert code == 0
    assert (tmp_path / "stay.toml").exists()
    assert f"its signatures lie in {signatures}: 1 so far" in said
    charter, copied = tmp_path / "charter.toml", tmp_path / "charter.sigs"
    code, said = ran("unpack", str(study), str(charter))
    assert code == 0
    assert f"its signatures lie in {copied}: 1 so far" in said
    assert (copied / "hill.sig").read_text() == "hill's"
    charter.unlink()
    assert ran("unpack", str(study), str(charter))[0] == 0  # the very same are there already
    charter.unlink()
    (copied / "hill.sig").write_text("another")
    found = CliRunner().invoke(app, ["unpack", str(study), str(charter)])
    assert "is another signature than" in str(found.exception)
    assert not charter.exists()


@pytest.mark.slow
def test_what_is_no_study_or_is_there_already_is_said(
    studies: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no.study").write_text("nothing")
    for words, said in (
        (["show", str(tmp_path / "no.study")], "no study file of this version"),
        (["show", str(tmp_path / "gone.study")], "cannot be read"),
        (["unpack", str(studies[0]), str(tmp_path / "no.study")], "exists and is not overwritten"),
        (["unpack", str(studies[0]), str(tmp_path / "gone" / "c.toml")], "cannot be written"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["study", *words])
        assert caught.value.code == 1
        assert said in capsys.readouterr().err
