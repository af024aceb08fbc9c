"""Every command, with everything that a person gets wrong: a sentence with its file and a way out, and no traceback."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pytest

import cloister
from cloister.cli import main
from cloister.cli.main import NOUNS
from cloister.net.identity import Identity
from tests.study.test_study_file import written as write_study
from tests.support.charters import SIMULATED

SOURCES: Final = Path(cloister.__file__).parents[1]
SOON: Final = 60.0

YEARS: Final = {"not_before": 2020, "not_after": 2021}
BAD: Final = "BAD"
"""Stands in a command where what is bad goes."""

FILES: Final[dict[str, Callable[[Path], object]]] = {
    "missing": lambda path: None,
    "folder": lambda path: path.mkdir(),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 8),
    "empty": lambda path: path.write_bytes(b""),
    "pipe": os.mkfifo,
    "types": lambda path: path.write_text("name = 3\nformat = []\nlisten = {}\nidentity = 1.5\n[members]\nx = true\n"),
    "words": lambda path: path.write_text("not what it should be\n"),
}

PROVISION: Final = (
    "provision agg.example:7443 --name mri --secret me.key --key me.key --charter charter.toml"
    " --software software.toml --configuration node.toml"
)

READABLE: Final = ("binary", "types", "words")

COMMANDS: Final = [
    "key show BAD",
    "key renew BAD",
    "node check BAD",
    "node check node.toml --study BAD",
    "node serve BAD",
    "node log BAD",
    "node sessions BAD",
    "charter check BAD",
    "charter show BAD",
    "charter sign BAD --key me.key --yes",
    "charter sign BAD.study --key me.key --yes",
    "charter sign charter.toml --key BAD --yes",
    "charter encode BAD out.cbor",
    "study show BAD",
    "study show stroke.study --first-model BAD",
    "study diff stroke.study BAD",
    "study diff BAD stroke.study",
    "study unpack BAD",
    "study model BAD --out newest.safetensors",
    "study status BAD --identity me.key",
    "study status charter.toml --identity BAD",
    "study stop BAD --identity me.key",
    "study log BAD",
    "study log charter.toml BAD",
    "aggregator serve --charter BAD --tee simulated",
    "attest show BAD",
    "attest verify agg.example:7443 --charter BAD",
    "attest verify agg.example:7443 --charter charter.toml --key BAD",
    "ledger show BAD",
    "ledger audit BAD --charter charter.toml",
    "ledger audit chain.jsonl --charter BAD",
    "data seal mri.npz --key BAD",
    PROVISION.replace("--secret me.key", "--secret BAD"),
    PROVISION.replace("--key me.key", "--key BAD"),
    PROVISION.replace("--charter charter.toml", "--charter BAD"),
    PROVISION.replace("--software software.toml", "--software BAD"),
    PROVISION.replace("--configuration node.toml", "--configuration BAD"),
]
"""Each file that a command reads."""

FINE: Final = {
    ("study log charter.toml BAD", "empty"),
    ("ledger show BAD", "empty"),  # no record is a chain too
    ("ledger audit BAD --charter charter.toml", "empty"),
    ("data seal mri.npz --key BAD", "missing"),  # it makes one
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all is well."""
    folder = tmp_path_factory.mktemp("home")
    write_study(folder)
    Identity.create(folder / "me.key")
    np.savez(folder / "mri.npz", x=np.zeros(3))
    (folder / "node.toml").write_text('name = "n"\nidentity = "me.key"\nlisten = "127.0.0.1:0"\n')
    (folder / "software.toml").write_text(SIMULATED)
    (folder / "chain.jsonl").write_text("")
    charter = (folder / "charter.toml").read_text()
    (folder / "old.toml").write_text(
        re.sub(r"(not_\w+) = \d+", lambda found: f"{found[1]} = {YEARS[found[1]]}", charter)
    )
    return folder


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Runs a command that cannot be done, and returns what it says. All but SystemExit would be a traceback."""
    monkeypatch.chdir(home)

    def run(command: str) -> str:
        with pytest.raises(SystemExit) as caught:
            main(command.split())
        out, err = capsys.readouterr()
        assert caught.value.code in (1, 2, 3, 4), (command, caught.value.code, out)
        return err + out

    return run


def check_told(text: str, *, about: str) -> None:
    """One sentence that ends in what to do, or a list of faults with a line for each; and what it is about."""
    first, *more = text.strip().splitlines()
    assert about in first, text
    for technical in ("Traceback", "Errno", "Error(", "object at 0x", "b'"):
        assert technical not in text
    listed = first.endswith(" fault(s):") or first.startswith("NOT ACCEPTABLE")
    assert listed or not more, text
    if not listed:
        assert len(re.split("[;:`]", first.removeprefix("cloister: "))) > 1, f"no way out: {first}"


@pytest.mark.slow
@pytest.mark.parametrize("what", FILES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_is_none(run: Callable[[str], str], tmp_path: Path, command: str, what: str) -> None:
    end = ".study" if "BAD.study" in command else ""
    bad = tmp_path / f"bad{end}"
    FILES[what](bad)
    if what not in ("missing", "folder", "pipe"):
        bad.chmod(0o600)  # or a key is refused for that
    secret, configuration = "--secret BAD" in command, "--configuration BAD" in command
    if (command, what) in FINE or (secret and what in READABLE) or (configuration and what in ("empty", "types")):
        return  # whatever it holds is for the other end to judge
    text = run(command.replace(BAD + end, str(bad)))
    about = {"attest show BAD": "evidence", "study show stroke.study --first-model BAD": "first model"}
    check_told(text, about=about.get(command, str(bad)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "about"),
    [
        ("key new none/me.key", "there is no folder none"),
        ("key new me.key", "me.key"),
        ("key new /dev/null/me.key", "/dev/null"),
        ("node new none/node.toml", "none/node.toml"),
        ("node sessions node.toml --end 3", "no node runs here"),
        ("node log node.toml", "names no charter"),
        ("charter new none/charter.toml --name x", "none/charter.toml"),
        ("charter new charter.toml --name x", "charter.toml exists"),
        ("charter new other.toml --name ../x", "name"),
        ("charter check stroke.study", "stroke.study is a study file"),
        ("charter sign charter.toml --key me.key --yes", "no member"),
        ("charter encode charter.toml none/charter.cbor", "none/charter.cbor"),
        ("study show charter.toml", "charter.toml is a charter"),
        ("study unpack stroke.study none/charter.toml", "none/charter.toml"),
        ("study plan 0", "at least one row"),
        ("aggregator serve --charter charter.toml --tee simulated --name b.example:1", "b.example:1"),
        ("aggregator serve --charter charter.toml --tee simulated", "does not list this software"),
        ("aggregator serve --charter charter.toml", "TEE"),
        ("attest verify nobody:7443 --charter charter.toml", "nobody:7443 is not an address of this charter's"),
        ("attest verify agg.example:7443 --charter old.toml", "2021"),
        ("attest show stroke.study --collateral none.json", "evidence"),
        ("attest verify agg.example:7443 --charter charter.toml --at nowhere", "nowhere"),
        ("ledger audit chain.jsonl --charter stroke.study", "is a study file"),
        ("data seal none.npz", "there is no file none.npz"),
        ("data seal charter.toml", "a data set is an .npz or a .safetensors file"),
        ("data seal mri.npz --out none/mri.npz.sealed", "none"),
        ("data seal mri.npz --out mri.sealed", "name it so that it ends in .npz.sealed"),
        (f"{PROVISION} --at 127.0.0.1:CLOSED", "127.0.0.1"),
        ("demo --keep charter.toml", "charter.toml"),
    ],
)
def test_what_else_is_wrong(run: Callable[[str], str], command: str, about: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        ports = {"TAKEN": taken.getsockname()[1], "CLOSED": closed.getsockname()[1]}
        for name, port in ports.items():
            command = command.replace(name, str(port))
        check_told(run(command), about=about)


@pytest.mark.slow
def test_hosts_that_cannot_be_reached(run: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict page tells it, and the exit code is the network's."""

    def unknown(*arguments: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    verify = "attest verify agg.example:7443 --charter charter.toml"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        text = run(f"{verify} --at 127.0.0.1:{closed.getsockname()[1]}")
    assert "refused" in text
    assert "Errno" not in text
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    text = run(verify)
    assert "agg.example" in text
    assert "Errno" not in text


def test_a_full_disk_is_a_sentence_wherever_it_shows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device", "chain.jsonl")

    monkeypatch.setattr(sys.modules["cloister.cli.main"], "show_version", full)
    with pytest.raises(SystemExit) as caught:
        main(["version"])
    assert caught.value.code == 1
    assert capsys.readouterr().err == "cloister: the system refuses it: No space left on device: chain.jsonl\n"


def test_a_package_that_is_missed_late_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent() -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(sys.modules["cloister.cli.main"], "show_version", absent)
    with pytest.raises(SystemExit) as caught:
        main(["version"])
    assert caught.value.code == 1
    assert "`cloister version` needs torch, which is not installed: pip install 'cloister[torch]'" in (
        capsys.readouterr().err
    )


def test_no_command_is_left_out() -> None:
    """A noun that is added has its bad inputs here."""
    tried = {command.split()[0] for command in COMMANDS}
    assert set(NOUNS) - tried == {"demo", "version"}


# Ctrl-C


@pytest.mark.e2e
@pytest.mark.parametrize(
    "command",
    ["attest verify agg.example:7443 --charter charter.toml --at 127.0.0.1:PORT", f"{PROVISION} --at 127.0.0.1:PORT"],
)
def test_ctrl_c_is_quiet_while_a_peer_is_waited_for(home: Path, command: str) -> None:
    """Services end in order (``tests/e2e/test_node_faults.py``), and so does the demonstration (``test_demo.py``)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        words = command.replace("PORT", str(listener.getsockname()[1])).split()
        process = subprocess.Popen(
            [sys.executable, "-m", "cloister", *words],
            cwd=home,
            env={**os.environ, "PYTHONPATH": str(SOURCES)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        listener.settimeout(SOON)
        connection, _ = listener.accept()  # it is waiting for an answer now
        with connection:
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=SOON)
    assert (process.returncode, said) == (130, "")
