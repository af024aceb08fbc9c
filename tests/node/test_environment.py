"""What a child process may know of its listener's environment."""

from __future__ import annotations

import pytest

from cloister.node import process


def test_a_child_computes_with_the_kernels_that_the_owner_chose_and_learns_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "TZ": "UTC", "CUDA_VISIBLE_DEVICES": "0"}
    kept_back = {
        "AWS_SECRET_ACCESS_KEY": "s3cr3t",
        "PYTHONSTARTUP": "startup.py",
        "TORCH_LOGS": "+all",
        "LD_PRELOAD": "x",
    }
    for name, value in (passed | kept_back).items():
        monkeypatch.setenv(name, value)
    environment = process._environment()
    assert passed.items() <= environment.items()
    assert not kept_back.keys() & environment.keys()
