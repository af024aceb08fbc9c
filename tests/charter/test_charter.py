"""charter.toml: what is read from it, every fault of it, and its digest."""

from __future__ import annotations

import contextlib
import random
import tomllib
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.charter import Metric
from cloister.charter.charter import FORMAT, content
from cloister.charter.names import is_name, shown
from cloister.charter.toml import parse_charter
from cloister.errors import CharterError
from cloister.tables import TEXT_BYTES
from tests.support.charters import SGX, SIMULATED, agreed_job, charter, fingerprint_of, text


def faults(written: str) -> list[str]:
    with pytest.raises(CharterError) as caught:
        parse_charter(written)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def places(written: str) -> set[str]:
    return {fault.partition(":")[0] for fault in faults(written)}


def test_what_is_in_a_charter() -> None:
    found = charter(
        jobs=[agreed_job(bytes.fromhex("ab" * 32))],
        limits=f'first_model = "{"cd" * 32}"\n[[limits.metrics]]\nname = "loss"\nlow = 0\nhigh = 10\n',
    )
    assert (found.name, found.serial, found.supersedes) == ("stroke-study", 1, None)
    assert [member.name for member in found.owners] == ["alice", "bob", "chuck"]
    assert [member.name for member in found.researchers] == ["rosa"]
    assert found.auditors == ()
    bob = found.member(fingerprint_of("bob"))
    assert bob is not None
    assert (bob.name, bob.role) == ("bob", "owner")
    assert found.member(fingerprint_of("mallory")) is None
    assert found.addresses == ("agg.example:7443",)
    assert [entry.name for entry in found.reference] == ["rehearsal"]
    assert found.limits.noise is None
    assert found.jobs == (agreed_job(bytes.fromhex("ab" * 32)),)
    assert found.job("train") == found.jobs[0]
    assert found.job("other") is None
    assert (found.limits.min_batch, found.limits.clip_buffers, found.limits.row_buckets) == (32, None, ())
    assert found.limits.first_model == bytes.fromhex("cd" * 32)
    assert found.limits.metrics == (Metric(name="loss", low=0.0, high=10.0),)
    assert not found.interactive
    assert charter().interactive


FILES = ("0f" * 32, "1F" * 32)


def a_base(name: str = '"a base"', files: str = f'["{FILES[0]}", "{FILES[1]}"]') -> str:
    return f"[[bases]]\nname = {name}\nfiles = {files}\n"


def test_bases_are_files_in_their_order_by_their_digests() -> None:
    second = a_base(name='"second"', files=f'["{"2a" * 32}"]')
    agreed = charter(limits=second + a_base())
    assert [(each.name, [file.hex() for file in each.files]) for each in agreed.bases] == [
        ("a base", [each.lower() for each in FILES]),
        ("second", ["2a" * 32]),
    ]
    turned = charter(limits=a_base(files=f'["{FILES[1]}", "{FILES[0]}"]') + second)
    assert turned.digest != agreed.digest
    assert charter().bases == ()
    most = charter(limits=a_base(files="[" + ",".join(f'"{at:064x}"' for at in range(1024)) + "]"))
    assert len(most.bases[0].files) == 1024


def test_buffers_stay_at_home_where_a_charter_says_so_also_beside_noise() -> None:
    assert not charter().limits.home_buffers
    assert charter(home_buffers="true").limits.home_buffers
    noise = '{ unit = "owner", multiplier = 1, delta = 1e-5 }'
    assert charter(home_buffers="true", noise=noise, interactive="false").limits.home_buffers
    told = faults(text(clip_buffers="1.0", noise=noise, interactive="false"))
    assert any("home_buffers = true will do too" in each for each in told)


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({"floor": "1"}, "limits.floor"),
        ({"floor": "4"}, "limits.floor"),
        ({"floor": "2.0"}, "limits.floor"),
        ({"largest_share": "0.0"}, "limits.largest_share"),
        ({"largest_share": "1.01"}, "limits.largest_share"),
        ({"largest_share": "nan"}, "limits.largest_share"),
        ({"largest_share": "0.49"}, "limits.largest_share"),  # two members cannot make up a whole of this
        ({"clip": "0"}, "limits.clip"),
        ({"clip": "inf"}, "limits.clip"),
        ({"clip": "1" + "0" * 400}, "limits.clip"),
        ({"rounds": "0"}, "limits.rounds"),
        ({"min_examples": "true"}, "limits.min_examples"),
        ({"noise": '"some"'}, "limits.noise"),
        ({"noise": "1.0"}, "limits.noise"),
        ({"noise": '{ unit = "row", multiplier = 1, delta = 1e-5 }'}, "limits.noise.unit"),
        ({"noise": '{ unit = "owner", multiplier = 0, delta = 1e-5 }'}, "limits.noise.multiplier"),
        ({"jobs": [agreed_job(bytes(32))]}, "limits.first_model"),
        ({"min_batch": "15"}, "limits.min_batch"),
        ({"clip_buffers": "0"}, "limits.clip_buffers"),
        ({"clip_buffers": "1.0", "home_buffers": "true"}, "limits.clip_buffers"),
        ({"home_buffers": "1"}, "limits.home_buffers"),
        ({"limits": a_base(name='""')}, "bases[0].name"),
        ({"limits": a_base(files="[]")}, "bases[0].files"),
        ({"limits": a_base(files=f'"{FILES[0]}"')}, "bases[0].files"),
        ({"limits": a_base(files=f'["{FILES[0][:-1]}"]')}, "bases[0].files"),
        ({"limits": a_base(files=f'["{FILES[0]}", "model.safetensors"]')}, "bases[0].files"),
        ({"limits": a_base() + 'path = "x"\n'}, "bases[0].path"),
        ({"limits": a_base() + a_base()}, "bases[1].name"),
        ({"limits": a_base() + a_base(name='"other"')}, "bases[1].files"),
        ({"limits": a_base(files=f'["{FILES[0]}", "{FILES[0]}"]')}, "bases[0].files"),
        ({"limits": "".join(a_base(name=f'"b{at}"', files=f'["{at:064x}"]') for at in range(17))}, "bases"),
        ({"limits": a_base(files="[" + ",".join(f'"{at:064x}"' for at in range(1025)) + "]")}, "bases[0].files"),
        ({"row_buckets": "[20, 20]"}, "limits.row_buckets"),
        ({"row_buckets": "[30, 20]"}, "limits.row_buckets"),
        ({"row_buckets": "[10, 20]"}, "limits.row_buckets"),
        ({"row_buckets": "[5, 20]"}, "limits.row_buckets"),
        ({"row_buckets": '["20"]'}, "limits.row_buckets"),
        ({"interactive": '"no"'}, "limits.interactive"),
        ({"limits": "colour = 1"}, "limits.colour"),
        ({"limits": '[[limits.metrics]]\nname = "a"\nlow = 1\nhigh = 1'}, "limits.metrics[0].high"),
        ({"limits": '[[limits.metrics]]\nname = "a"\nlow = -inf\nhigh = 1'}, "limits.metrics[0].low"),
        ({"top": 'motto = "x"'}, "motto"),
        ({"serial": 2}, "supersedes"),
        ({"supersedes": bytes(32)}, "supersedes"),
        ({"software": ""}, "software"),
        ({"software": SGX + SIMULATED}, "software"),
        ({"software": SIMULATED + SIMULATED}, "software[1].name"),
        ({"software": SIMULATED.replace("min_svn = 0\n", "")}, "software[0].min_svn"),
        ({"owners": ("bob", "bob", "alice")}, "members[1].name"),
    ],
)
def test_each_fault_has_its_place(changed: dict[str, Any], place: str) -> None:
    assert place in places(text(**changed))


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ('"cloister charter 4"', '"cloister charter 1"', "format"),
        ("not_after = 2027", "not_after = 2026", "not_after"),
        ("2027-01-01T00:00:00Z", "2027-01-01T00:00:00", "not_after"),
        ("2027-01-01T00:00:00Z", "9999-12-31T23:59:59-05:00", "not_after"),
        ("2027-01-01T00:00:00Z", "2027-01-01", "not_after"),
        ("agg.example:7443", "agg.example", "aggregator.addresses"),
        ("agg.example:7443", "agg.example:0", "aggregator.addresses"),
        ('["agg.example:7443"]', "[]", "aggregator.addresses"),
        ('role = "researcher"', 'role = "boss"', "members[3].role"),
        ('name = "bob"', 'name = "../bob"', "members[0].name"),
        ('name = "bob"', 'name = "Alice"', "members[1].name"),
        ('name = "stroke-study"', 'name = "\\u202estudy"', "name"),
        ('name = "stroke-study"', 'name = "\uff53tudy"', "name"),  # a wide s: NFKC makes an s of it
        (fingerprint_of("bob"), fingerprint_of("bob").upper(), "members[0].key"),
        (fingerprint_of("bob"), fingerprint_of("alice"), "members[1].key"),
    ],
)
def test_faults_of_the_upper_part(old: str, new: str, place: str) -> None:
    written = text()
    assert old in written
    assert place in places(written.replace(old, new, 1))


def test_all_faults_come_at_once() -> None:
    found = faults(text(floor="1", rounds="0", serial=2).replace("agg.example:7443", "agg"))
    assert {"limits.floor", "limits.rounds", "supersedes", "aggregator.addresses"} <= {
        fault.partition(":")[0] for fault in found
    }


@pytest.mark.parametrize(
    "written",
    [
        "= 1",
        "a = " + "[" * 5000,
        "a = " + "9" * 5000,
        "\ufeff",
        "#" * (TEXT_BYTES + 1),
        "#" + "\u00e9" * TEXT_BYTES,
        "#\ud800",
    ],
)
def test_what_is_no_charter_at_all(written: str) -> None:
    with pytest.raises(CharterError):
        parse_charter(written)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_charter_is_refused_or_read(data: st.DataObject) -> None:
    written = list(text(software=SGX))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(written) - 1))
        written[at] = data.draw(
            st.sampled_from(["", "0", '"', "[", "]", "\n", "=", "-1", "{", "\u202e", "\\u0000", "e9"])
        )
    with contextlib.suppress(CharterError):  # and nothing else comes
        assert len(parse_charter("".join(written)).digest) == 32


def test_names_that_look_alike_are_told_apart() -> None:
    assert is_name("Universit\u00e4tsklinikum (Nord)")
    assert shown("bob") == "bob"
    assert shown("a\x1b[8m\nb") == "a\\x1b[8m\\nb"
    assert shown("b\u3164b") == "b\\u3164b"
    assert shown("b\u043eb") == "b\u043eb (b\\u043eb)"  # the middle letter is Cyrillic


@pytest.mark.parametrize(
    "character", "\ufe0f\u034f\u115f\u1160\U000e0100\u3164\u200b\u00ad\u180b\u17b4\u2800\x1b\n\xa0", ids=ascii
)
def test_nothing_in_a_name_is_invisible(character: str) -> None:
    assert not is_name(f"hill{character}")
    assert not is_name(f"hi{character}ll")
    assert any(
        "is no name" in fault for fault in faults(text().replace("stroke-study", f"hi\\U{ord(character):08x}ll"))
    )


@pytest.mark.parametrize("name", ["\u5317\u4eac", "\u0928\u0940", "\u05d1\u05d9\u05ea", "Z\u00fcrich"])
def test_names_may_be_of_any_script(name: str) -> None:
    assert is_name(name)


# --- the digest


def test_the_digest_is_of_the_deterministic_encoding() -> None:
    import hashlib

    agreed = charter()
    encoded = cbor2.dumps([FORMAT, content(agreed)], canonical=True)
    assert agreed.digest == hashlib.sha256(encoded).digest()
    told = cbor2.loads(encoded)[1]
    assert set(told) == {
        "name",
        "serial",
        "supersedes",
        "not_before",
        "not_after",
        "members",
        "addresses",
        "reference",
        "limits",
        "jobs",
        "bases",
        "recipe",
    }
    assert told["not_before"] == 1767225600 * 10**6
    assert told["reference"][0]["tee"] == "simulated"


def toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return '"' + "".join(f"\\u{ord(character):04x}" for character in value) + '"'
        case list():
            return "[" + ",\n ".join(map(toml, value)) + "]"
        case dict():
            return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
        case int() | float():
            return repr(value)
        case _:
            return value.isoformat()


def shuffled(value: Any, chance: random.Random) -> Any:
    """The same with its keys and lists in another order."""
    if isinstance(value, dict):
        items = [(key, shuffled(item, chance)) for key, item in value.items()]
        chance.shuffle(items)
        return dict(items)
    if isinstance(value, list):
        return chance.sample([shuffled(item, chance) for item in value], len(value))
    return value


RICH = text(
    software=SGX + SGX.replace("on SGX", "on SGX, next").replace("1e", "2e"),
    jobs=[agreed_job(bytes.fromhex("ab" * 32)), agreed_job(bytes.fromhex("cd" * 32), name="more", steps=5)],
    limits=f'first_model = "{"cd" * 32}"\n'
    + "".join(f'[[limits.metrics]]\nname = "{name}"\nlow = -1\nhigh = 10\n' for name in ("loss", "error"))
    + "".join(a_base(f'"{name}"', f'["{file * 32}"]') for name, file in (("one", "e1"), ("two", "e2"))),
    home_buffers="true",
).replace('["agg.example:7443"]', '["agg.example:7443", "[2001:db8::7]:7443"]')


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_layout_comments_and_order_do_not_matter(seed: int) -> None:
    data = shuffled(tomllib.loads(RICH), random.Random(seed))
    written = "# a comment\n" + "".join(f"\n  {key}  =  {toml(value)} # why\n" for key, value in data.items())
    assert parse_charter(written).digest == parse_charter(RICH).digest
    assert parse_charter(written) == parse_charter(RICH)


def test_two_ways_of_writing_a_value_are_one_value() -> None:
    agreed = charter(software=SGX)
    for old, new in [
        ("2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00"),
        ("clip = 1.0", "clip = 1"),
        ('"30 d"', '"720 h"'),
        ("1e1e1e", "1E1E1E"),
        ("rounds = 100", "rounds = 0x64"),
    ]:
        written = text(software=SGX)
        assert old in written
        assert parse_charter(written.replace(old, new, 1)).digest == agreed.digest


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in leaves(item, (*path, key))]
    if isinstance(value, list):
        return [leaf for index, item in enumerate(value) for leaf in leaves(item, (*path, index))]
    return [path]


ALTERED = content(parse_charter(RICH))


@pytest.mark.slow
@given(
    path=st.sampled_from(leaves(ALTERED)),
    other=st.integers() | st.binary(max_size=64) | st.text(max_size=8) | st.none(),
)
@settings(max_examples=150, deadline=None)
def test_no_two_contents_share_an_encoding(path: tuple[Any, ...], other: Any) -> None:
    """Every value of the content is in what is hashed."""
    encoded = cbor2.dumps([FORMAT, ALTERED], canonical=True)
    copy = cbor2.loads(encoded)[1]
    place = copy
    for step in path[:-1]:
        place = place[step]
    if type(place[path[-1]]) is type(other) and place[path[-1]] == other:
        return
    place[path[-1]] = other
    assert cbor2.dumps([FORMAT, copy], canonical=True) != encoded


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('name = "stroke-study"', 'name = "stroke-studz"'),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"),
        ("2027-01-01T00:00:00Z", "2027-01-01T00:00:00.000001Z"),
        ('name = "bob"', 'name = "bo"'),
        (fingerprint_of("bob"), fingerprint_of("mallory")),
        ('role = "researcher"', 'role = "auditor"'),
        ("[2001:db8::7]:7443", "[2001:db8::7]:7444"),
        ("floor = 2", "floor = 3"),
        ("largest_share = 0.5", "largest_share = 0.5000000001"),
        ("clip = 1.0", "clip = 1.0000000000000002"),
        ("rounds = 100", "rounds = 101"),
        ("min_examples = 10", "min_examples = 11"),
        ('first_model = "cd', 'first_model = "ce'),
        ('plan = "ab', 'plan = "ac'),
        ('data = "#mri"\nrounds = 3\nbatch_size = 32', 'data = "#ct"\nrounds = 3\nbatch_size = 33'),
        ("steps = 4", "steps = 6"),
        ("lr = 0.1", "lr = 0.1000000000001"),
        ('strategy = { name = "FedAvg", lr = 1.0', 'strategy = { name = "FedAvg", lr = 1.1'),
        ("max_s = 60", "max_s = 61"),
        ("home_buffers = true", "home_buffers = false"),
        ('name = "one"', 'name = "ones"'),
        ('files = ["e1', 'files = ["e3'),
        (f'"{"e1" * 32}"]', f'"{"e1" * 32}", "{"e3" * 32}"]'),
        ('data = "#mri"', 'data = "#ct"'),
        ("low = -1", "low = -2"),
        ('name = "loss"', 'name = "lost"'),
        ('name = "on SGX"', 'name = "on an SGX"'),
        ('mr_enclave = ["1e', 'mr_enclave = ["1f'),
        ('mr_signer = "any"', f'mr_signer = ["{"00" * 32}"]'),
        ("isv_prod_id = 0", 'isv_prod_id = "any"'),
        ("min_isv_svn = 2", "min_isv_svn = 3"),
        ('["UpToDate", "SWHardeningNeeded"]', '["UpToDate"]'),
        ('["INTEL-SA-00615"]', '"any"'),
        ("min_eval_number = 17", "min_eval_number = 18"),
        ('"30 d"', '"31 d"'),
        ('["ppid:0f', '["platform_instance_id:0f'),
    ],
)
def test_every_change_of_meaning_changes_the_digest(old: str, new: str) -> None:
    assert old in RICH
    assert parse_charter(RICH.replace(old, new, 1)).digest != parse_charter(RICH).digest


def test_an_interactive_charter_has_another_digest() -> None:
    assert charter(interactive="true").digest != charter(interactive="false").digest


def test_a_successor_has_another_digest() -> None:
    first = charter()
    second = charter(serial=2, supersedes=first.digest)
    third = charter(serial=2, supersedes=second.digest)
    assert len({first.digest, second.digest, third.digest}) == 3
    assert second.supersedes == first.digest
