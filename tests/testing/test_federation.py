"""``LocalFederation``: real nodes that start, serve, and leave nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cloister.errors import ConfigurationError, UnreachableError
from cloister.testing.federation import LocalDataSet, LocalFederation
from tests.support.processes import children, descendants, running, wait_until


@pytest.mark.e2e
def test_nodes_serve_move_and_leave_no_process(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    np.savez(file, x=np.arange(4, dtype=np.float32))
    data_sets = {"bob": [LocalDataSet(file, "x", ("#x",), unsafe_interactive=True)]}
    with LocalFederation(tmp_path, ["aggregator", "bob"], session={"memory": "64 MiB", "spare_executors": 0}) as nodes:
        nodes.start("aggregator")
        nodes.start("bob", data_sets=data_sets)
        with nodes.connect("bob") as bob, nodes.connect("aggregator") as aggregator:
            (x,) = bob.search("#x")
            doubled = x * 2
            doubled.move(aggregator)
            assert torch.equal(doubled.get(), torch.tensor([0.0, 2.0, 4.0, 6.0]))
            processes = {node.process.pid for node in nodes.nodes.values()}
            executors = set().union(*map(descendants, processes))
        assert len(executors) >= 2
        assert "opened" in nodes.log("bob")
    assert wait_until(lambda: not running(processes | executors), within_s=20)
    nodes.close()  # twice does no harm


@pytest.mark.e2e
def test_a_node_that_cannot_start_says_why(tmp_path: Path) -> None:
    missing = LocalDataSet(tmp_path / "nowhere.npz", "x", ("#x",))
    before = children(os.getpid())
    with LocalFederation(tmp_path, ["bob"]) as nodes:
        with pytest.raises(UnreachableError, match=r"(?s)bob did not start; its log ends: .*nowhere\.npz"):
            nodes.start("bob", data_sets={"bob": [missing]})
        assert "bob" not in nodes.nodes
    assert children(os.getpid()) <= before


def test_a_node_is_started_once_and_only_if_it_was_named(tmp_path: Path) -> None:
    with LocalFederation(tmp_path, ["bob"]) as nodes, pytest.raises(ConfigurationError, match="'alice' is no node"):
        nodes.start("alice")


def test_every_key_is_its_own(tmp_path: Path) -> None:
    with LocalFederation(tmp_path, ["bob", "alice"]) as nodes:
        fingerprints = {nodes.researcher.fingerprint, *(key.fingerprint for key in nodes.identities.values())}
        assert len(fingerprints) == 3
