"""Keras runs on PyTorch here, which it is told before anything imports it."""

from __future__ import annotations

import os

import pytest

os.environ["KERAS_BACKEND"] = "torch"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keras writes files in a way that NumPy is giving up."""
    for item in items:
        if "tests/keras" in item.path.as_posix():
            item.add_marker(pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"))
