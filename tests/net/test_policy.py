"""What has to be proved, and how a user's files become that."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.attest.evidence import Evidence
from cloister.attest.verifier import MAKERS
from cloister.errors import CharterError, CollateralError, ConfigurationError
from cloister.files import read_text
from cloister.net.collateral import no_collateral
from cloister.net.files import read_charter
from cloister.net.policy import AttestationPolicy, configuration_digest, read_reference
from tests.support.attested import Study

NOW = datetime(2026, 7, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


def test_what_is_asked_for_unless_something_else_is_said(study: Study) -> None:
    """The strictest of everything: a hole has to be asked for."""
    policy = AttestationPolicy(charter=study.charter)
    assert not policy.accept_simulated
    assert policy.role == "aggregator"
    assert policy.reference is None
    assert policy.configuration is None
    assert policy.unsafe_roots is MAKERS
    assert abs(policy.clock() - datetime.now(UTC)) < timedelta(minutes=1)
    with pytest.raises(FrozenInstanceError):
        policy.accept_simulated = True  # type: ignore[misc]


@pytest.mark.parametrize("tee", ["sgx", "tdx"])
def test_without_collateral_intels_tees_are_not_judged(tee: Any) -> None:
    with pytest.raises(CollateralError, match="name a file or the URL"):
        no_collateral(Evidence(tee=tee, quote=b"quote"), NOW)


@pytest.mark.parametrize("tee", ["snp", "simulated"])
def test_others_may_bring_all_they_need(tee: Any) -> None:
    assert no_collateral(Evidence(tee=tee, quote=b"report"), NOW) is None


# The digest of a configuration

NODE = """
name = "bob"
listen = "0.0.0.0:7443"
since = 2026-01-01T00:00:00Z
day = 2026-01-01
[session]
objects = 100_000
[[data_sets]]
tags = ["#mri", "#x"]
file = "mri.npz.sealed"
"""


def test_layout_and_comments_do_not_matter_to_a_configurations_digest() -> None:
    other = """
    # the same
    day = 2026-01-01
    since = 2026-01-01T00:00:00Z
    listen = '0.0.0.0:7443'
    name = "\\u0062ob"
    data_sets = [{ file = "mri.npz.sealed", tags = ["#mri", "#x"] }]
    session.objects = 0x186a0
    """
    assert configuration_digest(NODE) == configuration_digest(other)
    assert len(configuration_digest(NODE)) == 32


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"bob"', '"bOb"'),
        ("100_000", "100_001"),
        ("100_000", "100_000.0"),
        ("100_000", '"100_000"'),
        ("100_000", "true"),
        ('["#mri", "#x"]', '["#x", "#mri"]'),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"),
        ("2026-01-01\n", '"2026-01-01"\n'),
        ("[session]", "[sessions]"),
        ("[session]", "extra = 0\n[session]"),
    ],
)
def test_everything_else_matters(old: str, new: str) -> None:
    assert old in NODE
    assert configuration_digest(NODE.replace(old, new, 1)) != configuration_digest(NODE)


@given(st.text(max_size=60))
def test_any_text_has_a_digest_or_is_not_toml(text: str) -> None:
    try:
        digest = configuration_digest(text)
    except ConfigurationError:
        return
    assert len(digest) == 32


def test_a_configuration_nested_without_end_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not TOML"):
        configuration_digest("a = " + "[" * 100_000)


# Files


def test_a_charter_in_a_file(study: Study) -> None:
    assert read_charter(study.folder / "charter.toml") == study.charter


def test_a_policy_of_a_charter_in_a_file(study: Study) -> None:
    path = study.folder / "charter.toml"
    made = [AttestationPolicy(charter=charter) for charter in (study.charter, path, str(path))]
    assert [policy.charter for policy in made] == [study.charter] * 3
    assert replace(made[1], role="node").charter == study.charter


def test_a_policy_of_no_charter(tmp_path: Path) -> None:
    (tmp_path / "charter.toml").write_text('format = "cloister charter 9"\n')
    with pytest.raises(CharterError, match=r"charter\.toml"):
        AttestationPolicy(charter=tmp_path / "charter.toml")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        AttestationPolicy(charter=str(tmp_path / "missing.toml"))


def test_a_policy_takes_collateral_by_the_name_of_its_source(study: Study, tmp_path: Path) -> None:
    """As ``Study`` does: a file, a URL, a function, or nothing."""
    assert AttestationPolicy(charter=study.charter).collateral is no_collateral
    assert AttestationPolicy(charter=study.charter, collateral=no_collateral).collateral is no_collateral
    named = AttestationPolicy(charter=study.charter, collateral=str(tmp_path / "missing"))
    with pytest.raises(CollateralError, match="missing cannot be read"):
        named.collateral(Evidence(tee="sgx", quote=b"quote"), NOW)
    with pytest.raises(ConfigurationError):
        AttestationPolicy(charter=study.charter, collateral="gopher://pccs.example")


def test_a_charter_with_faults(tmp_path: Path) -> None:
    (tmp_path / "charter.toml").write_text('format = "cloister charter 9"\n')
    with pytest.raises(CharterError, match=r"charter\.toml"):
        read_charter(tmp_path / "charter.toml")


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "huge").write_bytes(b"#" * (1 << 21))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, text in [
        ("huge", "longer than"),
        ("binary", "not UTF-8"),
        ("none", "cannot be read"),
        (".", "cannot be"),
    ]:
        with pytest.raises(ConfigurationError, match=text):
            read_text(tmp_path / name, limit=1 << 20)


def test_a_reference_in_a_file_of_its_own(study: Study, tmp_path: Path) -> None:
    text = (study.folder / "charter.toml").read_text()
    software = text[text.index("[[software]]") : text.index("[limits]")]
    (tmp_path / "software.toml").write_text(software)
    assert read_reference(tmp_path / "software.toml") == study.charter.reference


@pytest.mark.parametrize("text", ["", "software = 1\n", "[[software]]\nname = 'x'\n", "limits = {}\n"])
def test_a_reference_that_names_no_software(tmp_path: Path, text: str) -> None:
    (tmp_path / "software.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=r"software\.toml"):
        read_reference(tmp_path / "software.toml")
