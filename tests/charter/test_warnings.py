"""What a charter gives up, and what it says in words; the file to start from."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from cloister.charter.charter import Noise
from cloister.charter.jobs import Sampling
from cloister.charter.summary import heading, limits, member, rules, software
from cloister.charter.template import template
from cloister.charter.toml import parse_charter
from cloister.charter.warnings import warnings_of
from cloister.errors import CharterError
from cloister.wire import optimizers
from tests.support.charters import NOW, SGX, agreed_job, charter, text

TIGHT: dict[str, Any] = {
    "proven_plans": "true",
    "software": SGX,
    "interactive": "false",
    "owners": ("bob", "alice", "chuck", "dora"),
    "floor": "3",
    "largest_share": "0.34",
    "noise": '{ unit = "owner", multiplier = 2, delta = 1e-5 }',
    "jobs": [agreed_job(b"\xab" * 32)],
    "limits": f'first_model = "{"cd" * 32}"\nfirst_model_file = "{"ef" * 32}"\n',
}
SNP = f"""
[[software]]
name = "on SNP"
tee = "snp"
measurement = ["{"5e" * 48}"]
host_data = "any"
id_key_digest = "any"
author_key_digest = ["{"00" * 48}"]
min_guest_svn = 0
products = ["Milan"]
allow_smt = true
require_single_socket = false
signers = ["vlek"]
unsafe_no_revocation = true
platforms = "any"
[software.min_tcb.Milan]
bl = 3
tee = 0
snp = 8
ucode = 115
"""


def test_a_tight_charter_has_no_holes() -> None:
    assert warnings_of(charter(**TIGHT)) == []


@pytest.mark.parametrize(
    ("changed", "hole"),
    [
        ({"interactive": "true", "jobs": (), "noise": '"none"'}, "interactive: "),
        ({"noise": '"none"'}, "no noise: "),
        ({"noise": '{ unit = "owner", multiplier = 1.9, delta = 1e-5 }'}, "noise: 1.9 times what it hides"),
        ({"jobs": [], "limits": ""}, "no job is named"),
        ({"proven_plans": "false"}, "proven_plans is false: nodes run"),
        ({"limits": f'first_model = "{"cd" * 32}"\n'}, "first_model: its values are the researcher's choice"),
        ({"min_batch": "16"}, "min_batch = 16: "),
        (
            {"jobs": [agreed_job(b"\xab" * 32, weights="rows")], "row_buckets": "[50, 100]", "noise": '"none"'},
            "job train: weights by rows",
        ),
        (
            {"jobs": [agreed_job(b"\xab" * 32, optimizer=optimizers.SGD(2.0), unsafe_lr="the loss is tiny")]},
            "job train: lr = 2 is out of its bounds, for this reason: the loss is tiny",
        ),
        ({"floor": "2", "largest_share": "0.5"}, "floor = 2: "),
        ({"floor": "4"}, "one that is away stops every round"),
        ({"largest_share": "0.6"}, "more than half"),
        ({"software": SGX.replace('["UpToDate", ', '["OutOfDate", ')}, "on SGX: allowed_status names OutOfDate"),
        ({"software": SGX.replace('["INTEL-SA-00615"]', '"any"')}, "on SGX: allowed_advisories is any"),
        ({"software": SGX.replace("= 17", "= 0")}, "on SGX: min_eval_number is 0"),
        ({"software": SGX.replace("isv_prod_id = 0", 'isv_prod_id = "any"')}, "on SGX: isv_prod_id is any"),
        ({"software": SGX.replace(f'["ppid:{"0f" * 16}"]', '"any"')}, "on SGX: platforms is any"),
        ({"software": SNP}, "on SNP: unsafe_no_revocation"),
        ({"software": SNP}, "on SNP: allow_smt"),
        ({"software": SNP}, "on SNP: not checked: host_data, id_key_digest"),
    ],
)
def test_each_hole_is_explained(changed: dict[str, Any], hole: str) -> None:
    found = warnings_of(charter(**(TIGHT | changed)))
    assert any(hole in each for each in found)


def test_a_member_known_by_an_older_key_is_told() -> None:
    agreed = charter(**TIGHT)
    bob = agreed.members[1]
    older = replace(agreed, members=(agreed.members[0], replace(bob, id=f"sha256:{'0' * 64}"), *agreed.members[2:]))
    assert any(f"bob is known by the id of an older key: sha256:{'0' * 64};" in each for each in warnings_of(older))
    assert member(replace(bob, id="sha256:1")) == f"bob, {bob.key}, known by the id of an older key: sha256:1"
    assert member(bob) == f"bob, {bob.key}"


def test_nothing_that_warnings_quote_begins_a_line() -> None:
    agreed = charter(**TIGHT)
    forged = "x\x1b[8m\nwarnings    none"
    job = replace(agreed.jobs[0], name=forged, weights="rows", unsafe_lr=forged)
    entry = replace(agreed.reference[0], name=forged, platforms="any")
    for told in warnings_of(replace(agreed, jobs=(job,), reference=(entry,))):
        assert told.isprintable()


def test_numbers_that_differ_look_different() -> None:
    told = limits(charter(**(TIGHT | {"clip": "10.00004", "largest_share": "0.5000001"})).limits)
    assert told["clip"].endswith("at most 10.00004")
    assert told["largest_share"].startswith("at most 0.5000001 of")
    agreed = charter()
    assert dict(heading(agreed))["valid"] == "2026-01-01 00:00 to 2027-01-01 00:00 UTC"
    later = replace(agreed, not_before=agreed.not_before + timedelta(microseconds=1), supersedes=bytes(32))
    assert dict(heading(later))["valid"] == "2026-01-01 00:00:00.000001 to 2027-01-01 00:00 UTC"
    assert dict(heading(later))["supersedes"] == "00" * 32


def test_a_signer_alone_is_all_its_software() -> None:
    signer = SGX.replace('mr_signer = "any"', f'mr_signer = ["{"2e" * 32}"]').replace(f'["{"1e" * 32}"]', '"any"')
    assert "on SGX: mr_enclave is any: all software of that signer, now and later" in warnings_of(
        charter(**(TIGHT | {"software": signer}))
    )


def test_what_nobody_can_do_is_told() -> None:
    nobody = parse_charter(text().replace('role = "researcher"', 'role = "auditor"'))
    assert any("nobody is a researcher" in each for each in warnings_of(nobody))


def test_a_long_life_is_a_hole() -> None:
    assert any("days" in each for each in warnings_of(parse_charter(text().replace("2027-", "2037-"))))


def test_the_words_of_a_charter() -> None:
    agreed = charter(**(TIGHT | {"software": SNP}))
    told = rules(agreed)
    assert (told.name, told.serial, told.digest, told.floor) == ("stroke-study", 1, agreed.digest, 3)
    assert [member.name for member in told.members] == ["alice", "bob", "chuck", "dora", "rosa"]
    assert told.warnings == tuple(warnings_of(agreed))
    assert limits(agreed.limits)["noise"].startswith("discrete Gaussian, 2 times the most that")
    entry = dict(software(agreed.reference[0]))
    assert entry["measurement"] == "5e" * 48
    assert entry["min_tcb.Milan"] == "bl 3, tee 0, snp 8, ucode 115"
    assert (entry["host_data"], entry["allow_smt"], entry["max_collateral_age"]) == ("any", "yes", "none")
    assert dict(software(charter(software=SGX).reference[0]))["max_collateral_age"] == "30 d"


# --- the file to start from


def test_a_new_charter_lacks_only_what_nobody_can_guess() -> None:
    with pytest.raises(CharterError) as caught:
        parse_charter(template("stroke-study", now=NOW))
    assert {line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]} == {
        "members[0].key",
        "members[1].key",
        "members[2].key",
        "members[3].key",
        "software[0].measurement",
    }


def filled(written: str) -> str:
    """A template with distinct keys, and digits of the right number in every other gap."""
    keys = (f"sha256:{number:064x}" for number in range(1, 9))
    written = re.sub(r"sha256:\.\.\.", lambda _: next(keys), written)
    written = re.sub(r"<(\d+) hexadecimal digits>", lambda match: "ab" * (int(match[1]) // 2), written)
    lengths = {
        "mr_enclave": 64,
        "host_data": 64,
        "min_tee_tcb_svn": 32,
        "first_model": 64,
        "files": 64,
        "plan": 64,
        "supersedes": 64,
    }
    return re.sub(
        r'^(\w+) = (\[?)"\.\.\."', lambda match: f'{match[1]} = {match[2]}"{"ab" * (lengths.get(match[1], 96) // 2)}"',
        written, flags=re.MULTILINE,
    )  # fmt: skip


def opened(written: str, indent: str = "") -> str:
    """A template with all that stands behind ``#`` and so many spaces in it."""
    return re.sub(rf"^# {indent}(?=\w+ = |\[)", "", written, flags=re.MULTILINE)


def test_all_that_is_commented_out_is_right_too() -> None:
    written = template("stroke-study", now=NOW)
    begun = parse_charter(filled(written))
    assert begun.limits.noise == Noise(unit="record", multiplier=2.0, delta=1e-5)
    assert not [each for each in warnings_of(begun) if each.startswith("noise")]
    whole = filled(opened(written).replace("serial = 1 ", "serial = 2 "))
    whole = re.sub(r'\[\[software\]\]\nname = "rehearsal"\n.*?(?=\[\[software\]\])', "", whole, flags=re.DOTALL)
    agreed = parse_charter(whole)
    assert [entry.tee for entry in agreed.reference] == ["snp", "sgx", "tdx"]
    assert [job.sampling for job in agreed.jobs] == [Sampling(rate=0.1, rows=300)]
    assert [entry.tensor for entry in agreed.recipe] == ["0.weight"]
    assert (agreed.serial, agreed.not_after - agreed.not_before) == (2, timedelta(days=365))


def test_what_is_for_a_charter_without_noise_is_right_in_one() -> None:
    within, others = template("stroke-study", now=NOW).split('# With noise = "none"')
    limits, rest = opened(others, "  ").split("[[limits.metrics]]")
    within = re.sub(r"^noise = .*$", f'noise = "none"\n# {limits}', within, flags=re.MULTILINE)
    within = within.replace("# first_model", "first_model")
    agreed = parse_charter(filled(f"{within}[[limits.metrics]]{rest}"))
    assert [metric.name for metric in agreed.limits.metrics] == ["loss"]
    assert (agreed.limits.clip_buffers, agreed.limits.row_buckets) == (10.0, (200, 500, 1000))
    assert [(job.steps, job.sampling) for job in agreed.jobs] == [(20, None)]


@pytest.mark.parametrize("name", ["", "../x", "a/b", 'a"b', "x" * 61, "a\nb", "-x", "x "])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(CharterError, match="no name for a charter"):
        template(name, now=NOW)
