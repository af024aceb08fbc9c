"""Identities that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.net.identity import Identity
from tests.support.tls import make_identity


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="session")
def bob(keys: Path) -> Identity:
    return make_identity(keys, "bob")


@pytest.fixture(scope="session")
def carol(keys: Path) -> Identity:
    return make_identity(keys, "carol", algorithm="p256")
