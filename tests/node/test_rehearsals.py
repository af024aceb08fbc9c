"""A salt that is known: it makes a study equal to its simulation, and is taken where nothing real is at stake."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.charter.signatures import encode
from cloister.charter.toml import parse_charter
from cloister.errors import CharterError
from cloister.node.config import CharterUse
from cloister.node.setup import load_charter
from cloister.worker.data.salts import simulated_salt
from tests.support.charters import NOW, SGX, SIMULATED, fingerprint_of, signatures, text

BOB = fingerprint_of("bob")


def loaded(folder: Path, software: str, *, salt: bytes | None) -> bool:
    """Whether bob's node works under a charter of this software, with this salt."""
    written = text(software=software)
    agreed = parse_charter(written)
    (folder / "charter.toml").write_text(written)
    lines = [encode(signature) for signature in signatures(agreed)]
    (folder / "signatures").mkdir()
    for number, line in enumerate(lines):
        (folder / "signatures" / f"{number}.sig").write_text(line)
    use = CharterUse(
        file=folder / "charter.toml",
        signatures=folder / "signatures",
        state=None,
        accept_simulated=True,
        collateral="https://collateral.example",
        floors=None,
        unsafe_salt=salt,
    )
    return load_charter(use, own=BOB, now=NOW) == agreed


def test_a_rehearsal_may_have_one(tmp_path: Path) -> None:
    assert loaded(tmp_path, SIMULATED, salt=simulated_salt(7, "bob"))


def test_where_a_real_tee_is_accepted_nobody_has_one(tmp_path: Path) -> None:
    with pytest.raises(CharterError, match="unsafe_salt makes the order of rows known"):
        loaded(tmp_path, SGX, salt=simulated_salt(7, "bob"))


def test_where_a_real_tee_is_accepted_salts_are_secrets(tmp_path: Path) -> None:
    assert loaded(tmp_path, SGX, salt=None)
