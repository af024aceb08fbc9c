"""Attack: be a researcher whom a node lets in for its open data, and reach for the data that it keeps for studies.

What has columns is never put where sessions look: no search finds it, by whatever tags, and a search for it is answered
as one for tags that nobody carries. Its owner cannot open it to sessions by a word beside it, or name its file twice
among what studies train on. And a charter that is closed to interactive use leaves no way round the rounds.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import cloister
from cloister.errors import CloisterError, ConfigurationError
from cloister.net.identity import Identity
from cloister.node import config
from cloister.node.setup import node_of
from tests.support.tls import SOON

CONFIGURATION = """
name = "bob"
listen = "127.0.0.1:0"
identity = "bob.key"
[session]
memory = "256 MiB"
spare_executors = 1
threads = 1
[[researchers]]
name = "carol"
fingerprint = "{carol}"
[[data_sets]]
tags = ["#open", "#brains"]
file = "open.npz"
tensor = "x"
unsafe_interactive = true
[[data_sets]]
tags = ["#closed", "#brains"]
file = "open.npz"
tensor = "x"
[[data_sets]]
tags = ["#mri", "#brains", "#hospital-7"]
file = "mri.npz"
columns = ["x", "y"]
"""

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bob")
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.savez(folder / "open.npz", x=rows)
    np.savez(folder / "mri.npz", x=rows + 100, y=rows[:, :1])
    return folder


@pytest.fixture(scope="module")
def worker(folder: Path) -> Iterator[cloister.RemoteWorker]:
    carol, bob = (Identity.create(folder / f"{name}.key") for name in ("carol", "bob"))
    file = folder / "bob.toml"
    file.write_text(CONFIGURATION.format(carol=carol.fingerprint))
    node = node_of(file)
    thread = threading.Thread(target=node.serve)
    thread.start()
    try:
        with cloister.connect(
            str(node.address), identity=carol, peer=bob.fingerprint, connect_s=SOON, answer_s=SOON
        ) as worker:
            yield worker
    finally:
        node.stop()
        thread.join(SOON)
        assert not thread.is_alive()


def found(worker: cloister.RemoteWorker, *tags: str) -> list[list[str]]:
    return sorted(sorted(pointer.tags) for pointer in worker.search(*tags))


def test_a_search_finds_what_is_open_and_nothing_else(worker: cloister.RemoteWorker) -> None:
    for tags in ((), ("#brains",), ("#open",)):
        assert found(worker, *tags) == [["#brains", "#open"]]


@pytest.mark.parametrize("tags", [("#mri",), ("#hospital-7",), ("#mri", "#brains"), ("x",), ("mri.npz",)])
def test_data_for_studies_is_as_if_it_was_not_there(worker: cloister.RemoteWorker, tags: tuple[str, ...]) -> None:
    assert found(worker, *tags) == found(worker, "#nobody-has-this") == []


@pytest.mark.slow
def test_data_that_is_closed_is_named_and_leads_no_further(worker: cloister.RemoteWorker) -> None:
    with pytest.raises(CloisterError, match="closed to interactive use") as caught:
        worker.search("#closed")
    assert "mri" not in str(caught.value)
    assert "hospital-7" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("unsafe_interactive = true", "no session ever finds it"),
        ('tensor = "x"', "no session ever finds it"),
        ('[[data_sets]]\ntags = ["#again"]\nfile = "mri.npz"\ncolumns = ["x", "y"]', "is the same file"),
    ],
    ids=["a word", "a tensor", "a second budget for one file"],
)
def test_its_owner_cannot_open_it_by_mistake(folder: Path, more: str, why: str) -> None:
    text = CONFIGURATION.format(carol="sha256:" + "0" * 64) + more
    with pytest.raises(ConfigurationError, match=why):
        config.parse(text, folder=folder)


def test_a_file_that_studies_train_on_is_not_open_beside_it(folder: Path) -> None:
    """The rows that rounds protect would be there for the asking."""
    more = '[[data_sets]]\ntags = ["#same-rows"]\nfile = "mri.npz"\ntensor = "x"\nunsafe_interactive = true\n'
    with pytest.raises(ConfigurationError, match="keeps this file for studies"):
        config.parse(CONFIGURATION.format(carol="sha256:" + "0" * 64) + more, folder=folder)
