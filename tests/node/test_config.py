"""node.toml: what is read from it, and that every fault is listed with its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloister.charter.owner_limits import PrivacyBudget
from cloister.cli.node import TEMPLATE
from cloister.errors import ConfigurationError
from cloister.node import config
from cloister.node.config import BaseFile, DataSet, Neighbour, NodeConfiguration, Researcher
from cloister.wire.peers import Address

A, B = ("sha256:" + digit * 64 for digit in "ab")
MINIMAL = 'name = "bob"\nlisten = "0.0.0.0:7443"\nidentity = "bob.key"\n'
FOLDER = Path("/srv/node")


def parse(text: str) -> NodeConfiguration:
    return config.parse(MINIMAL + text, folder=FOLDER)


def faults(text: str, *, start: str = MINIMAL) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        config.parse(start + text, folder=FOLDER)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_three_keys_suffice() -> None:
    configuration = parse("")
    assert configuration.name == "bob"
    assert configuration.listen == Address("0.0.0.0", 7443)  # noqa: S104
    assert configuration.identity == FOLDER / "bob.key"
    assert configuration.session.memory_bytes == 2 << 30
    assert configuration.session.objects == 100_000
    assert configuration.session.max_sessions == 8
    assert configuration.session.spare_executors == 1
    assert configuration.session.grace_s == 10.0
    assert configuration.session.move_wait_s == 600.0
    assert configuration.session.device == "cpu"
    assert configuration.session.threads == max(1, (os.cpu_count() or 1) // 8)
    assert configuration.researchers == configuration.workers == configuration.data_sets == ()


def test_everything_there_is() -> None:
    configuration = parse(f"""
        [session]
        memory = "1.5 GiB"
        objects = 7
        max_sessions = 2
        spare_executors = 0
        grace = "250 ms"
        move_wait = "1 h"
        device = "cuda:1"
        threads = 3
        [[researchers]]
        name = "carol"
        fingerprint = "{A}"
        [[workers]]
        name = "agg"
        fingerprint = "{B}"
        address = "[::1]:7443"
        [[workers]]
        name = "carol"
        fingerprint = "{A}"
        [[data_sets]]
        tags = ["#mri", "#x"]
        file = "data/mri.npz"
        tensor = "x"
        unsafe_interactive = true
        [[data_sets]]
        tags = ["#y"]
        file = "/elsewhere/y.safetensors"
        tensor = "y"
    """)
    assert configuration.session.memory_bytes == 3 << 29
    assert (configuration.session.grace_s, configuration.session.move_wait_s) == (0.25, 3600.0)
    assert (configuration.session.device, configuration.session.threads) == ("cuda:1", 3)
    assert configuration.researchers == (Researcher("carol", A),)
    assert configuration.workers == (Neighbour("agg", B, Address("::1", 7443)), Neighbour("carol", A, None))
    assert configuration.data_sets == (
        DataSet(("#mri", "#x"), FOLDER / "data/mri.npz", "x", True),
        DataSet(("#y",), Path("/elsewhere/y.safetensors"), "y", False),
    )


def test_all_faults_are_listed_at_once_with_their_places() -> None:
    found = faults(
        f"""
        colour = "blue"
        [session]
        memory = "2 gigs"
        objects = 0
        max_sesions = 3
        grace = 10
        threads = true
        [[researchers]]
        name = "carol"
        fingerprint = "sha256:abc"
        [[workers]]
        fingerprint = "{B}"
        address = "agg.example"
        [[data_sets]]
        tags = []
        file = "mri.csv"
        tensor = "x"
        unsafe_interactive = "yes"
        """,
        start="listen = 7443\nidentity = 'bob.key'\n",
    )
    places = {fault.partition(":")[0] for fault in found}
    assert places == {
        "name",
        "listen",
        "colour",
        "session.memory",
        "session.objects",
        "session.max_sesions",
        "session.grace",
        "session.threads",
        "researchers[0].fingerprint",
        "workers[0].name",
        "workers[0].address",
        "data_sets[0].tags",
        "data_sets[0].file",
        "data_sets[0].unsafe_interactive",
    }
    assert len(found) == len(places)


@pytest.mark.parametrize(
    ("first", "second", "place", "text"),
    [
        (("carol", A), ("dave", A), "workers[0].name", "called 'carol' elsewhere"),
        (("carol", A), ("carol", B), "workers[0].name", "another key"),
    ],
)
def test_a_key_has_one_name(first: tuple[str, str], second: tuple[str, str], place: str, text: str) -> None:
    lists = "".join(
        f'[[{where}]]\nname = "{name}"\nfingerprint = "{key}"\n'
        for where, (name, key) in (("researchers", first), ("workers", second))
    )
    assert [fault.partition(":")[0] for fault in faults(lists)] == [place]
    assert text in faults(lists)[0]


def test_a_key_is_listed_once() -> None:
    entry = f'[[researchers]]\nname = "carol"\nfingerprint = "{A}"\n'
    assert faults(entry + entry) == ["researchers[1].fingerprint: this key is listed twice"]


@pytest.mark.parametrize("text", ["[session]\nmemory = '1 KiB'", "[session]\nmemory = '2 TB of it'", "session = 3"])
def test_limits_that_make_no_sense(text: str) -> None:
    assert len(faults(text)) == 1


def studied(*lines: str) -> str:
    return "\n".join(["[[data_sets]]", 'tags = ["#mri"]', 'file = "mri.npz"', 'columns = ["x"]', *lines])


def test_a_data_sets_privacy_budget() -> None:
    (data,) = parse(studied("epsilon = 2", "delta = 1e-6")).study_data
    assert data.budget == PrivacyBudget(2.0, 1e-6)
    assert parse(studied()).study_data[0].budget is None


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        (["epsilon = 2"], "data_sets[0].delta"),
        (["delta = 1e-6"], "data_sets[0].epsilon"),
        (["epsilon = 0", "delta = 1e-6"], "data_sets[0].epsilon"),
        (["epsilon = -1.0", "delta = 1e-6"], "data_sets[0].epsilon"),
        (["epsilon = inf", "delta = 1e-6"], "data_sets[0].epsilon"),
        (["epsilon = nan", "delta = 1e-6"], "data_sets[0].epsilon"),
        (["epsilon = '2'", "delta = 1e-6"], "data_sets[0].epsilon"),
        (["epsilon = 2", "delta = 0"], "data_sets[0].delta"),
        (["epsilon = 2", "delta = 0.011"], "data_sets[0].delta"),
    ],
)
def test_a_privacy_budget_that_is_none(lines: list[str], place: str) -> None:
    (fault,) = faults(studied(*lines))
    assert fault.startswith(f"{place}: ")


def test_data_for_sessions_has_no_privacy_budget() -> None:
    text = studied("epsilon = 2", "delta = 1e-6").replace('columns = ["x"]', 'tensor = "x"\nunsafe_interactive = true')
    assert {each.partition(":")[0] for each in faults(text)} == {"data_sets[0].epsilon", "data_sets[0].delta"}


def test_what_is_not_toml_says_where() -> None:
    with pytest.raises(ConfigurationError, match="line 4"):
        config.parse(MINIMAL + "= 3", folder=FOLDER)


def test_a_missing_file_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cloister node new"):
        config.read(tmp_path / "node.toml")
    (tmp_path / "node.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        config.read(tmp_path / "node.toml")


def test_the_template_is_a_configuration_and_names_every_default() -> None:
    written = config.parse(TEMPLATE, folder=FOLDER)
    assert written.session == parse("").session
    uncommented = "\n".join(
        line.removeprefix("# ") if " = " in line or line.startswith("# [") else line for line in TEMPLATE.splitlines()
    )
    # All that is commented out is right but for fingerprints, which nobody can guess, and what excludes another key.
    with pytest.raises(ConfigurationError) as caught:
        config.parse(uncommented, folder=FOLDER)
    assert {line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]} == {
        "researchers[0].fingerprint",
        "workers[0].fingerprint",
        "data_sets[2].key_from",
        "data_sets",  # a node in a TEE takes part in no study
        "identity",
        "control",
    }


def sealed_set(file: str, *lines: str) -> str:
    return "\n".join(["[[data_sets]]", 'tags = ["#mri"]', 'tensor = "x"', f'file = "{file}"', *lines])


SEALED_KEYS = ('key = "mri-key"', f'key_from = "sha256:{"b" * 64}"')


@pytest.mark.parametrize("file", ["mri.npz.sealed", "mri.safetensors.sealed"])
def test_a_sealed_data_set(file: str) -> None:
    (data_set,) = parse(sealed_set(file, *SEALED_KEYS)).data_sets
    assert data_set.key == ("mri-key", "sha256:" + "b" * 64)
    assert data_set.path.name == file


@pytest.mark.parametrize(
    ("text", "place"),
    [
        pytest.param(sealed_set("mri.npz.sealed"), "file", id="sealed without a key"),
        pytest.param(sealed_set("mri.npz", *SEALED_KEYS), "file", id="a key and nothing sealed"),
        pytest.param(sealed_set("mri.sealed", *SEALED_KEYS), "file", id="of no format"),
        pytest.param(sealed_set("mri.npz.sealed", SEALED_KEYS[0]), "key_from", id="from nobody"),
        pytest.param(sealed_set("mri.npz.sealed", SEALED_KEYS[1]), "key", id="a key without a name"),
        pytest.param(sealed_set("mri.npz.sealed", SEALED_KEYS[0], 'key_from = "bob"'), "key_from", id="a name"),
    ],
)
def test_a_sealed_data_set_that_cannot_be(text: str, place: str) -> None:
    (fault,) = faults(text)
    assert fault.startswith(f"data_sets[0].{place}: ")


def test_base_models_are_files_a_table_for_each() -> None:
    found = parse("""
        [[models]]
        file = "gpt2/model-00001.safetensors"
        [[models]]
        file = "/srv/models/model-00002.safetensors"
    """)
    assert found.models == (
        BaseFile(FOLDER / "gpt2/model-00001.safetensors"),
        BaseFile(Path("/srv/models/model-00002.safetensors")),
    )
    assert parse("").models == ()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[[models]]", "models[0].file: is missing"),
        ('[[models]]\nfile = "gpt2"', "models[0].file: a base model is made of .safetensors files, one table for each"),
        ('[[models]]\nfile = "pytorch_model.bin"', "models[0].file: a base model is made of .safetensors files"),
        ("[[models]]\nfile = 7", "models[0].file"),
        ('[[models]]\nfile = "a.safetensors"\ntags = ["#x"]', "models[0].tags"),
        ('[models]\nfile = "a.safetensors"', "models"),
    ],
)
def test_what_is_no_base_model(text: str, fault: str) -> None:
    assert any(each.startswith(fault) for each in faults(text)), faults(text)
