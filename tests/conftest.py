"""What many tests share: how many examples laws are tried on, and worker processes, started once and only if some test
needs them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

import tests.one_thread  # noqa: F401 - first, since it has to come before torch
from tests import laws

if TYPE_CHECKING:
    from tests.support.nodes import Federation

settings.load_profile(laws.PROFILE)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # inherited by whatever a shell runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Nodes c, a and b: b can push values to a and c, and a to c."""
    from tests.support.nodes import federation  # it loads torch, without which most folders begin in a second

    with federation(tmp_path_factory.mktemp("nodes"), "c", "a", "b") as running:
        yield running
