"""The charter of a node: what has to be true of it before the node works under it, and what the node remembers."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from cloister.charter import Charter
from cloister.charter.owner_limits import Floors
from cloister.charter.signatures import encode
from cloister.charter.toml import parse_charter
from cloister.errors import CharterError, ConfigurationError
from cloister.node import config
from cloister.node.config import CharterUse
from cloister.node.setup import load_charter
from cloister.tables import TEXT_BYTES
from tests.support.charters import NOW, charter, fingerprint_of, signatures, text

BOB = fingerprint_of("bob")


@pytest.fixture
def use(tmp_path: Path) -> CharterUse:
    return CharterUse(
        file=tmp_path / "charter.toml",
        signatures=tmp_path / "charter.sigs",
        state=tmp_path / "state" / "charters",
        accept_simulated=True,
        collateral=None,
        floors=None,
    )


def publish(use: CharterUse, *names: str, **changed: object) -> Charter:
    """Puts a charter and its signatures where the node looks for them."""
    written = text(**changed)  # type: ignore[arg-type]
    agreed = parse_charter(written)
    use.file.write_text(written)
    use.signatures.mkdir(exist_ok=True)
    for file in use.signatures.iterdir():
        file.unlink()
    for signature in signatures(agreed, *names):
        signer = agreed.member(signature.key)
        assert signer is not None
        (use.signatures / f"{signer.name}.sig").write_text(encode(signature))
    return agreed


def memory(use: CharterUse) -> Path:
    assert use.state is not None
    return use.state / "stroke-study.charter"


def test_a_charter_that_all_signed_is_loaded_and_remembered(use: CharterUse) -> None:
    agreed = publish(use)
    assert load_charter(use, own=BOB, now=NOW) == agreed
    assert memory(use).read_text() == f"# accepted {agreed.digest.hex()}\n{text()}"
    assert load_charter(use, own=BOB, now=NOW) == agreed
    assert [file.name for file in memory(use).parent.iterdir()] == ["stroke-study.charter"]


def test_a_successor_takes_its_place(use: CharterUse) -> None:
    first = publish(use)
    load_charter(use, own=BOB, now=NOW)
    second = publish(use, serial=2, supersedes=first.digest)
    assert load_charter(use, own=BOB, now=NOW) == second
    assert second.digest.hex() in memory(use).read_text()


def test_charters_of_other_names_are_other_lines(use: CharterUse) -> None:
    first = publish(use)
    load_charter(use, own=BOB, now=NOW)
    publish(use, serial=2, supersedes=first.digest)
    load_charter(use, own=BOB, now=NOW)
    use.file.write_text(text().replace("stroke-study", "heart-study"))
    other = parse_charter(use.file.read_text())
    for name, signature in zip(("a", "b", "c"), signatures(other), strict=True):
        (use.signatures / f"{name}.sig").write_text(encode(signature))
    for name in ("alice", "bob", "chuck"):
        (use.signatures / f"{name}.sig").unlink()
    assert load_charter(use, own=BOB, now=NOW) == other


def test_nothing_is_remembered_of_what_was_refused(use: CharterUse) -> None:
    publish(use, "bob")
    with pytest.raises(CharterError, match="not signed by alice, chuck"):
        load_charter(use, own=BOB, now=NOW)
    assert not memory(use).exists()


def test_whoever_runs_the_node_has_to_be_a_member_that_signed(use: CharterUse) -> None:
    publish(use)
    with pytest.raises(CharterError, match="no member's"):
        load_charter(use, own=fingerprint_of("mallory"), now=NOW)
    with pytest.raises(CharterError, match="not signed by rosa"):
        load_charter(use, own=fingerprint_of("rosa"), now=NOW)


def test_a_charter_out_of_its_time(use: CharterUse) -> None:
    publish(use)
    for now in (NOW - timedelta(days=365), NOW + timedelta(days=365)):
        with pytest.raises(CharterError, match="valid"):
            load_charter(use, own=BOB, now=now)


def test_simulation_is_accepted_only_where_the_node_says_so(use: CharterUse) -> None:
    publish(use)
    with pytest.raises(CharterError, match="accept_simulated = true"):
        load_charter(replace(use, accept_simulated=False), own=BOB, now=NOW)


def test_own_floors_can_only_be_stricter(use: CharterUse) -> None:
    publish(use, interactive="false")
    load_charter(replace(use, floors=Floors(floor=3)), own=BOB, now=NOW)
    with pytest.raises(CharterError, match="rounds = 1000 is laxer than the charter's 100"):
        load_charter(replace(use, floors=Floors(rounds=1000)), own=BOB, now=NOW)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b"serial = 1", b"serial = 2"),
        lambda content: content.replace(b"rounds = 100", b"rounds = 101"),
        lambda content: content.replace(b"stroke", b"strike"),
        lambda content: b"\xff" + content,
        lambda content: content.partition(b"\n")[2],
        lambda content: content + b"#" * TEXT_BYTES,
    ],
)
def test_a_damaged_memory_stops_the_node(use: CharterUse, damage) -> None:
    publish(use)
    load_charter(use, own=BOB, now=NOW)
    memory(use).write_bytes(damage(memory(use).read_bytes()))
    with pytest.raises(CharterError, match=r"stroke-study\.charter"):
        load_charter(use, own=BOB, now=NOW)


def test_a_memory_that_cannot_be_kept_stops_the_node(use: CharterUse, tmp_path: Path) -> None:
    publish(use)
    (tmp_path / "state").write_text("a file where the folder should be")
    with pytest.raises(CharterError):
        load_charter(use, own=BOB, now=NOW)
    (tmp_path / "state").unlink()
    memory(use).mkdir(parents=True)
    with pytest.raises(CharterError):
        load_charter(use, own=BOB, now=NOW)


def test_without_a_folder_nothing_is_remembered(use: CharterUse) -> None:
    agreed = publish(use)
    assert load_charter(replace(use, state=None), own=BOB, now=NOW) == agreed
    assert not memory(use).exists()


def test_files_that_cannot_be_read(use: CharterUse) -> None:
    with pytest.raises(CharterError, match=r"charter\.toml cannot be read"):
        load_charter(use, own=BOB, now=NOW)
    use.file.write_bytes(b"\xff")
    with pytest.raises(CharterError, match="not UTF-8"):
        load_charter(use, own=BOB, now=NOW)
    use.file.write_bytes(b"#" * (TEXT_BYTES + 1))
    with pytest.raises(CharterError, match="longer than"):
        load_charter(use, own=BOB, now=NOW)
    publish(use)
    (use.signatures / "noise.sig").write_text("hello")
    with pytest.raises(CharterError, match=r"noise\.sig"):
        load_charter(use, own=BOB, now=NOW)


# --- the table in node.toml

MINIMAL = 'name = "bob"\nlisten = "0.0.0.0:7443"\nidentity = "bob.key"\n'
FOLDER = Path("/srv/node")


def parse(written: str) -> CharterUse | None:
    found = config.parse(MINIMAL + written, folder=FOLDER).charters
    assert len(found) <= 1
    return found[0] if found else None


def test_the_table_may_be_left_out_and_has_defaults() -> None:
    assert parse("") is None
    assert parse('[charter]\nfile = "a/stroke.toml"') == CharterUse(
        file=FOLDER / "a/stroke.toml",
        signatures=FOLDER / "a/stroke.sigs",
        state=FOLDER / "charter.state",
        accept_simulated=False,
        collateral=None,
        floors=None,
    )


def test_all_that_the_table_can_say() -> None:
    found = parse("""
        state = "/var/lib/node"
        [charter]
        file = "/etc/charter.toml"
        signatures = "sigs"
        accept_simulated = true
        collateral = "https://pccs.example/"
        publish_budget = true
        [charter.floors]
        floor = 5
        largest_share = 0.3
        clip = 0.5
        rounds = 10
        min_examples = 100
        min_batch = 64
        max_s = 3600
        max_collateral_age = "7 d"
    """)
    assert found == CharterUse(
        file=Path("/etc/charter.toml"),
        signatures=FOLDER / "sigs",
        state=Path("/var/lib/node"),
        accept_simulated=True,
        collateral="https://pccs.example/",
        publish_budget=True,
        floors=Floors(
            floor=5,
            largest_share=0.3,
            clip=0.5,
            rounds=10,
            min_examples=100,
            min_batch=64,
            max_s=3600,
            max_collateral_age=timedelta(days=7),
        ),
    )
    local = parse('[charter]\nfile = "c.toml"\ncollateral = "collateral.json"')
    assert local is not None
    assert local.collateral == "/srv/node/collateral.json"


def test_several_charters_have_one_memory() -> None:
    written = 'state = "kept"\n[[charters]]\nfile = "a.toml"\n[[charters]]\nfile = "b.toml"\naccept_simulated = true'
    found = config.parse(MINIMAL + written, folder=FOLDER).charters
    assert [each.file.name for each in found] == ["a.toml", "b.toml"]
    assert {each.state for each in found} == {FOLDER / "kept"}
    assert [each.accept_simulated for each in found] == [False, True]


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (
            '[charter]\nfile = "a.toml"\nstate = "mine"',
            "charter.state: stands at the top of node.toml now",
        ),
        ('[charter]\nfile = "a.toml"\n[[charters]]\nfile = "b.toml"', "name one charter as"),
        ('[[charters]]\nfile = "a.toml"\n[[charters]]\nfile = "./a.toml"', "one file twice"),
    ],
)
def test_charters_that_cannot_stand_together(written: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        config.parse(MINIMAL + written, folder=FOLDER)


def test_faults_of_the_table() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse("[charter]\naccept = true\n[charter.floors]\nfloor = 1\nclip = 0\nnoise = 1")
    assert {line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]} == {
        "charter.file",
        "charter.accept",
        "charter.floors.floor",
        "charter.floors.clip",
        "charter.floors.noise",
    }


def test_the_memory_survives_a_charter_with_other_line_ends(use: CharterUse) -> None:
    publish(use)
    use.file.write_bytes(text().replace("\n", "\r\n").encode())
    agreed = load_charter(use, own=BOB, now=NOW)
    assert load_charter(use, own=BOB, now=NOW) == agreed == charter()


def test_where_there_are_no_signatures_it_says_where_it_looked(use: CharterUse) -> None:
    publish(use)
    for file in use.signatures.iterdir():
        file.unlink()
    with pytest.raises(CharterError, match=r"no signatures in .*charter\.sigs; `cloister charter sign NAME\.study`"):
        load_charter(use, own=BOB, now=NOW)
    publish(use, "bob")
    with pytest.raises(CharterError, match="is not signed by alice") as caught:
        load_charter(use, own=BOB, now=NOW)
    assert "no signatures in" not in str(caught.value)
