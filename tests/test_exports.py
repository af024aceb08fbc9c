"""The front door's names: each is meant, has a docstring and a place on the reference page, and one home."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import cloister

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/reference/python.md").read_text(encoding="utf-8")
SOURCE = Path(cloister.__file__).read_text(encoding="utf-8")

EXPORTED = """
    Adam AdamW AttestationPolicy AttestedConnection Base Charter CloisterError CosineDecay FedAdagrad FedAdam FedAvg
    FedAvgM FedProx FedYogi History Identity MissingDependencyError Noise Plan PlannedLoss PointerTensor Receipt
    RemoteWorker Round SGD Sampling SimulationRun StepDecay Study StudyRun StudyStatus TorchHook TrainingReport
    Verdict VirtualWorker Worker __version__ attest_peer connect draw_first_model errors job job_toml model_digest
    parse_charter plan recipe_toml simulate split_by_label split_dirichlet write_base write_study
""".split()
LOADED_AT_ONCE = {"CloisterError", "MissingDependencyError", "__version__", "errors"}
NOT_BY_DOCSTRING = {"CloisterError", "MissingDependencyError", "__version__", "errors"}
"""The page names these in a sentence; errors have a page of their own."""

UNITLESS = re.compile(r"(timeout|patience|seconds|deadline|interval|delay|duration|grace|wait)$")
"""The end of a name of a number of seconds that does not tell its unit."""


def for_type_checkers() -> dict[str, str]:
    """The names that the front door imports under ``TYPE_CHECKING``, with their modules."""
    [block] = [each for each in ast.parse(SOURCE).body if isinstance(each, ast.If)]
    imports = [each for each in block.body if isinstance(each, ast.ImportFrom)]
    return {alias.name: f"{each.module}" for each in imports for alias in each.names}


def test_the_exported_names_are_those_that_are_meant() -> None:
    assert sorted(EXPORTED) == EXPORTED
    assert sorted(cloister.__all__) == EXPORTED, "a name came or went: is it meant? then change EXPORTED too"


def test_every_exported_name_has_one_home() -> None:
    assert set(cloister._HOME) == set(EXPORTED) - LOADED_AT_ONCE
    assert for_type_checkers() == cloister._HOME


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(EXPORTED) - {"__version__"}))
def test_an_exported_name_says_what_it_is(name: str) -> None:
    value: Any = getattr(cloister, name)
    made_up = f"{name}("  # what a dataclass without a docstring gets
    assert value.__doc__
    assert not value.__doc__.startswith(made_up)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_an_exported_name_is_on_the_reference_page(name: str) -> None:
    if name in NOT_BY_DOCSTRING:
        assert f"`cloister.{name}`" in PAGE
    else:
        assert re.search(rf"^::: cloister\.{name}$", PAGE, re.M)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(EXPORTED) - LOADED_AT_ONCE))
def test_a_number_of_seconds_says_so(name: str) -> None:
    """It ends in ``_s``, as an argument and as a field; what has a unit of its own, such as a timedelta, need not."""
    value: Any = getattr(cloister, name)
    found = [(name, value)] if inspect.isfunction(value) else inspect.getmembers(value, inspect.isfunction)
    functions = [each for its_name, each in found if its_name == "__init__" or not its_name.startswith("_")]
    named = {argument for each in functions for argument in inspect.signature(each).parameters}
    assert not [each for each in named | set(getattr(value, "__annotations__", {})) if UNITLESS.search(each)]
