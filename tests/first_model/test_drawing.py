"""Drawing: the same to the bit everywhere, within its bounds, and of the distribution that the recipe names."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cloister.errors import ConfigurationError
from cloister.models import drawing
from cloister.models.drawing import blocks, bounds, draw, draw_tensor, key_of, logarithms, quantiles, units
from cloister.models.recipe import Drawn
from tests.first_model.test_recipe import CONSTANT, NORMAL, UNIFORM, entries

DIGEST = bytes(range(32))
MANY = 200_000


def bits(values: NDArray[Any]) -> str:
    """The values' bytes, the least significant first, in hexadecimal."""
    return values.astype(values.dtype.newbyteorder("<")).tobytes().hex()


def test_the_stream_is_that_of_rfc_8439() -> None:
    first = next(blocks(bytes(32), words=8))  # appendix A.1, test vector 1
    assert first.tobytes().hex() == (
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    )


def test_the_key_is_of_label_digest_and_name() -> None:
    told = b"cloister first model 1\n" + DIGEST + "0.gewicht_ü".encode()
    assert key_of("0.gewicht_ü", digest=DIGEST) == hashlib.sha256(told).digest()
    for digest in (b"", bytes(31), bytes(33)):
        with pytest.raises(ConfigurationError, match="32 bytes"):
            key_of("0.weight", digest=digest)


@pytest.mark.parametrize(
    ("word", "unit"),
    [(0, 2.0**-53), (4095, 2.0**-53), (4096, 3 * 2.0**-53), (1 << 63, 0.5 + 2.0**-53), (-1, 1 - 2.0**-53)],
)
def test_a_word_becomes_an_odd_multiple_of_a_power_of_two(word: int, unit: float) -> None:
    assert units(np.array([word % (1 << 64)], dtype=np.uint64)).tolist() == [unit]


@pytest.mark.parametrize(
    ("entry", "known"),
    [
        (replace(UNIFORM, shape=(2, 2)), "1f5e4abaca5a353eb9201b3e706c5c3e"),
        (replace(UNIFORM, shape=(2,), dtype="float64"), "0052f6d6c34b49bfd25a834859abc63f"),
        (replace(NORMAL, shape=(3,)), "b3dc1584b52fa23f5fbb51898e23953f10c664c21d5574bf"),
        (replace(NORMAL, shape=(4,), dtype="float32"), "ac7d113d741ca93ceea8a2bb3b0e053b"),
        (replace(CONSTANT, value=0.1), "cdcccc3d"),
    ],
    ids=lambda value: value.draw if isinstance(value, Drawn) else "",
)
def test_known_answers(entry: Drawn, known: str) -> None:
    assert bits(draw_tensor(entry, digest=DIGEST)) == known


@pytest.mark.parametrize(
    ("entry", "known"),
    [
        (UNIFORM, "3d030fea8af1de6a43f62740a2184d7392da1f7a20c7b0632a32bda8b112f838"),
        (
            replace(NORMAL, mean=0.5, std=1.0, low=-5.0, high=5.0),
            "dcf97dba8d0b1cacc8b9eb33df87cb5ec5aed83a60b0f4caafb54caa354e2bd0",
        ),
        (replace(NORMAL, dtype="float32"), "45d9853250adf7b1a23f01a106d2fae3c9ed12d1fd7dd9bafa916b2d553901f7"),
    ],
    ids=["uniform", "normal", "float32"],
)
def test_known_answers_far_into_the_stream(entry: Drawn, known: str) -> None:
    values = draw_tensor(replace(entry, shape=(100_003,)), digest=DIGEST)
    assert hashlib.sha256(bytes.fromhex(bits(values))).hexdigest() == known


@given(entries())
def test_the_bits_are_those_of_plain_python(entry: Drawn) -> None:
    """The module's docstring, value by value, with another quantile."""
    key = hashlib.sha256(b"cloister first model 1\n" + DIGEST + entry.tensor.encode()).digest()
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(8 * 1000))
    unit = [(2 * (word >> 12) + 1) / 2**53 for word in struct.unpack("<1000Q", stream)]
    kind, (least, greatest) = np.dtype(entry.dtype).type, bounds(entry)
    given = {key: getattr(entry, key) or 0.0 for key in ("low", "high", "mean", "std")}
    values = draw_tensor(entry, digest=DIGEST).ravel()
    match entry.draw:
        case "uniform":
            exact = [float(kind(given["low"] + (given["high"] - given["low"]) * each)) for each in unit]
            assert values.tolist() == [min(max(each, least), greatest) for each in exact[: len(values)]]
        case "normal":
            exact = [float(kind(given["mean"] + given["std"] * NormalDist().inv_cdf(each))) for each in unit]
            kept = [each for each in exact if least <= each <= greatest]
            room = max(abs(given["mean"]), abs(given["std"])) * float(np.finfo(kind).eps)
            np.testing.assert_allclose(values, kept[: len(values)], rtol=0, atol=8 * room)


@given(entries(), st.binary(min_size=32, max_size=32))
def test_no_value_lies_outside(entry: Drawn, digest: bytes) -> None:
    values = draw_tensor(entry, digest=digest)
    low, high = bounds(entry)
    assert values.shape == entry.shape
    assert values.dtype == entry.dtype
    assert ((low <= values.astype(np.float64)) & (values.astype(np.float64) <= high)).all()


@pytest.mark.parametrize("word", [0, (1 << 64) - 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_not_even_at_the_ends_of_the_stream(monkeypatch: pytest.MonkeyPatch, word: int, dtype: Any) -> None:
    def constant(_: bytes, *, words: int) -> Any:
        while True:
            yield np.full(words, word, dtype=np.uint64)

    monkeypatch.setattr(drawing, "blocks", constant)
    for low, high in ((0.1, 0.7), (-0.7, -0.1), (1e-12, 1e-11), (-1e12, 1e12), (16777217.0, 16777301.0)):
        entry = Drawn(tensor="a", dtype=dtype, shape=(), draw="uniform", low=low, high=high)
        assert low <= float(draw_tensor(entry, digest=DIGEST)) <= high


@given(entries(), st.sampled_from([1, 2, 3, 7, 64, 1000]))
def test_no_value_depends_on_the_blocks(entry: Drawn, block: int) -> None:
    assert bits(draw_tensor(entry, digest=DIGEST, block=block)) == bits(draw_tensor(entry, digest=DIGEST))


@given(entries(), st.integers(1, 40))
def test_a_longer_tensor_begins_as_a_shorter_one(entry: Drawn, more: int) -> None:
    short = draw_tensor(replace(entry, shape=(40,)), digest=DIGEST)
    long = draw_tensor(replace(entry, shape=(40 + more,)), digest=DIGEST)
    assert bits(short) == bits(long[:40])


@given(entries(), st.binary(min_size=32, max_size=32), st.text("ab", min_size=1, max_size=3))
def test_another_digest_or_name_is_another_draw(entry: Drawn, digest: bytes, name: str) -> None:
    entry = replace(entry, shape=(16,))
    values = bits(draw_tensor(entry, digest=DIGEST))
    others = [
        draw_tensor(entry, digest=digest),
        draw_tensor(replace(entry, tensor=f"{entry.tensor}{name}"), digest=DIGEST),
    ]
    if entry.draw == "constant":
        assert {bits(other) for other in others} == {values}
    else:
        assert values not in {bits(other) for other in others} or digest == DIGEST
        assert bits(others[1]) != values


def test_a_model_is_its_tensors() -> None:
    drawn = draw((UNIFORM, NORMAL, CONSTANT), digest=DIGEST)
    assert {name: bits(values) for name, values in drawn.items()} == {
        entry.tensor: bits(draw_tensor(entry, digest=DIGEST)) for entry in (UNIFORM, NORMAL, CONSTANT)
    }
    with pytest.raises(ConfigurationError, match=r"first_model\[1\].tensor: another entry"):
        draw((UNIFORM, UNIFORM), digest=DIGEST)
    with pytest.raises(ConfigurationError, match=r"'0\.weight': high: must be above low"):
        draw_tensor(replace(UNIFORM, low=1.0), digest=DIGEST)


def test_quantiles_are_those_of_the_normal_distribution() -> None:
    generator = np.random.default_rng(0)
    ends = 10.0 ** -generator.uniform(0, 15.9, 3000)
    probabilities = np.clip(
        np.concatenate([generator.random(3000), ends, 1 - ends, [2.0**-53, 1 - 2.0**-53]]), 2.0**-53, 1 - 2.0**-53
    )
    expected = np.array([NormalDist().inv_cdf(each) for each in probabilities.tolist()])
    np.testing.assert_allclose(quantiles(probabilities), expected, rtol=4e-15, atol=1e-300)


def test_logarithms_are_those_of_a_library() -> None:
    numbers = 10.0 ** -np.random.default_rng(0).uniform(0, 300, 5000)
    np.testing.assert_allclose(logarithms(numbers), [math.log(each) for each in numbers], rtol=2e-15)
    assert logarithms(np.array([1.0, 0.5, 2.0**-53])).tolist() == [0.0, -math.log(2), -53 * math.log(2)]


def distance(values: NDArray[Any], cdf: Any) -> float:
    """That of Kolmogorov and Smirnov, times the root of the number of values: above 2.2 once in ten thousand draws."""
    found = np.array([cdf(each) for each in np.sort(values.astype(np.float64)).tolist()])
    steps = np.arange(len(found)) / len(found)
    return float(max((found - steps).max(), (steps + 1 / len(found) - found).max()) * math.sqrt(len(found)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a", "b", "c"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_draws_have_the_distribution_that_is_named(name: str, dtype: Any) -> None:
    uniform = replace(UNIFORM, tensor=name, dtype=dtype, shape=(MANY,))
    values = draw_tensor(uniform, digest=DIGEST).ravel()
    assert distance(values, lambda x: (x + 0.408) / 0.816) < 2.2
    assert abs(values.mean()) < 5 * 0.2356 / math.sqrt(MANY)
    normal = replace(uniform, draw="normal", mean=1.0, std=2.0, low=-1.0, high=7.0)
    values = draw_tensor(normal, digest=DIGEST).ravel()
    whole = NormalDist(1.0, 2.0)
    below, above = whole.cdf(-1.0), whole.cdf(7.0)
    assert distance(values, lambda x: (whole.cdf(x) - below) / (above - below)) < 2.2
    wide = replace(normal, mean=0.0, std=1.0, low=-8.0, high=8.0)
    values = draw_tensor(wide, digest=DIGEST).astype(np.float64)
    for power, moment, spread in ((1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)):
        assert abs((values**power).mean() - moment) < 5 * math.sqrt(spread / MANY)


@pytest.mark.slow
def test_neighbours_know_nothing_of_each_other() -> None:
    first = draw_tensor(replace(NORMAL, tensor="a", shape=(MANY,)), digest=DIGEST)
    second = draw_tensor(replace(NORMAL, tensor="b", shape=(MANY,)), digest=DIGEST)
    for left, right in ((first, second), (first[1:], first[:-1]), (first[8:], first[:-8])):
        assert abs(np.corrcoef(left, right)[0, 1]) < 5 / math.sqrt(MANY)
