"""The measurement of what runs: the same for processes that are started alike, another when one byte is another.

Each case is a process of its own with a copy of the package, since a process measures itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cloister
from cloister.attest.attester.measure import REQUIRES, inventory, measure
from cloister.errors import NoTeeError

ROOT = Path(__file__).parents[3]
SAY = "from cloister.attest.attester.measure import inventory, measure; import sys; "
HASH = SAY + "print(measure(sys.argv[1]).hex())"


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return copy(Path(cloister.__file__).parent, tmp_path_factory.mktemp("original"))


def copy(package: Path, where: Path) -> Path:
    """The package again, under ``where``, which is what PYTHONPATH has to name."""
    shutil.copytree(package, where / "cloister", ignore=shutil.ignore_patterns("__pycache__"))
    return where


def start(source: Path, *flags: str, role: str = "aggregator", program: str = HASH, cwd: Path | str = "/", **more: str):
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1", **more}
    command = [sys.executable, *flags, "-c", program, role]
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True)


def outcome(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return out.strip()


def editable(source: Path, site: Path) -> str:
    """The program of a process that has ``source`` from an editable install in the folder ``site``."""
    metadata = site / "cloister-9.9.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.4\nName: cloister\nVersion: 9.9\nRequires-Dist: pytest\n")
    (metadata / "RECORD").write_text("cloister.pth,,\n")
    (site / "cloister.pth").write_text(f"{source}\n")
    return f"import site; site.addsitedir({str(site)!r}); " + HASH


@pytest.mark.slow
def test_processes_that_are_started_alike_say_the_same(original, tmp_path):
    (tmp_path / "site").mkdir()
    elsewhere = copy(original / "cloister", tmp_path / "elsewhere")
    runs = [
        start(original),
        start(original, cwd=tmp_path),
        start(original, LC_ALL="C"),  # as where a service starts without a locale, and in UTF-8 mode
        start(original, LC_ALL="C.UTF-8"),
        start(elsewhere),
        start(Path("/nonexistent"), program=editable(original, tmp_path / "site")),
    ]
    said = [outcome(run) for run in runs]
    assert len(set(said)) == 1
    assert re.fullmatch("[0-9a-f]{96}", said[0])


@pytest.mark.slow
def test_one_byte_and_everything_else_that_runs_makes_another(original, tmp_path):
    changed = [copy(original / "cloister", tmp_path / name) for name in ("byte", "data", "more", "less", "moved")]
    with (changed[0] / "cloister/net/address.py").open("ab") as file:
        file.write(b"\n")
    table = changed[1] / "cloister/tensor/optable.txt"
    table.write_bytes(bytes([table.read_bytes()[0] ^ 1]) + table.read_bytes()[1:])
    (changed[2] / "cloister/net/extra.py").touch()
    (changed[3] / "cloister/py.typed").unlink()
    (changed[4] / "cloister/py.typed").rename(changed[4] / "cloister/py.untyped")
    runs = [
        start(original),
        *(start(source) for source in changed),
        start(original, role="node"),
        start(original, "-O"),
        start(original, "-X", "dev"),
    ]
    said = [outcome(run) for run in runs]
    assert len(set(said)) == len(runs)


@pytest.mark.slow
def test_byte_code_that_python_wrote_is_not_counted(original, tmp_path):
    source = copy(original / "cloister", tmp_path)
    before = outcome(start(source))
    cache = source / "cloister/net/__pycache__"
    cache.mkdir()
    (cache / "tls.cpython-311.pyc").write_bytes(b"code")
    assert outcome(start(source)) == before


@pytest.mark.slow
def test_a_process_measures_itself_once(original, tmp_path):
    source = copy(original / "cloister", tmp_path)
    program = SAY + (
        "from pathlib import Path; first, listed = measure('node'), inventory('node');"
        f"Path({str(source)!r}, 'cloister', 'py.typed').write_text('later');"
        "print(measure('node') == first, inventory('node') == listed)"
    )
    assert outcome(start(source, program=program)) == "True False"


def test_the_list_says_why_two_measurements_differ():
    listed = json.loads(inventory("aggregator"))
    assert listed["role"] == "aggregator"
    assert {"errors.py", "attest/attester/measure.py", "tensor/optable.txt", "py.typed"} <= set(listed["package"])
    assert not [path for path in listed["package"] if "__pycache__" in path]
    assert listed["interpreter"]["version"] == sys.version
    assert listed["flags"]["optimize"] == sys.flags.optimize
    assert {"cryptography", "cffi", "msgspec"} <= set(listed["distributions"]), "and what cryptography needs"
    assert "pytest" not in listed["distributions"], "what only tests need does not run in an aggregator"


@pytest.mark.slow
def test_the_list_says_nothing_about_where_it_lies():
    for place in (Path(cloister.__file__).parent, Path(sys.prefix), Path.cwd()):
        assert str(place) not in inventory("aggregator")


def test_all_that_the_package_requires_is_measured():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = project["dependencies"] + project["optional-dependencies"]["torch"]
    assert {re.match(r"[\w.-]+", line).group() for line in required} <= set(REQUIRES)


def test_what_cannot_be_read_is_not_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(cloister, "__file__", str(tmp_path / "archive.zip" / "cloister" / "__init__.py"))
    with pytest.raises(NoTeeError, match=r"cannot measure what runs here: .*archive\.zip"):
        inventory("aggregator")


def test_a_measurement_has_the_length_of_a_real_one():
    assert len(measure("aggregator")) == 48
    assert measure("aggregator") is measure("aggregator")
