"""What stands where something else is wanted is called what it is, and what is there already is not overwritten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import cloister
from cloister.cli.study import read_study
from cloister.errors import CharterError, ConfigurationError
from cloister.net.files import read_charter
from tests.study.test_study_file import EXAMPLE, charter, loss, model, read, written


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("honest"))


def test_a_study_file_that_is_there_is_not_overwritten_unasked(tmp_path: Path) -> None:
    start = model()
    plan = loss.capture(start, example=EXAMPLE)
    given: dict[str, Any] = {"charter": charter(tmp_path, plan, start), "plans": [plan], "model": start}
    file = tmp_path / "s.study"
    cloister.write_study(file, **given)
    before = file.read_bytes()
    cloister.write_study(file, **given)  # a script that is run again
    with pytest.raises(ConfigurationError, match="exists, with other content, and is not overwritten"):
        cloister.write_study(file, **given, text="for something else")
    assert file.read_bytes() == before
    cloister.write_study(file, **given, text="for something else", overwrite=True)
    assert read(file).text == "for something else"


def test_a_function_is_no_plan_of_a_study_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"give loss\.capture\(model, example=\.\.\.\)"):
        cloister.write_study(tmp_path / "s.study", charter="charter.toml", plans=[loss], model=model())  # type: ignore[list-item]


def test_a_study_file_in_the_place_of_a_charter_is_called_one(honest: Path) -> None:
    for reading in (read_charter, lambda path: cloister.draw_first_model(model(), path)):
        with pytest.raises(ConfigurationError, match=r"stroke\.study is a study file, .*`cloister study unpack"):
            reading(honest)


def test_a_charter_in_the_place_of_a_study_file_is_called_one(honest: Path) -> None:
    with pytest.raises(CharterError, match=r"is a charter, and a study file is wanted here: `cloister charter show"):
        read_study(honest.parent / "charter.toml")
