"""What many tests share: worker processes, started once and only if some test needs them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import tests.one_thread  # noqa: F401 - first, since it has to come before torch
from tests.nodes import Federation, federation


@pytest.fixture(scope="session")
def three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Nodes c, a and b: b can push values to a and c, and a to c."""
    with federation(tmp_path_factory.mktemp("nodes"), "c", "a", "b") as running:
        yield running
