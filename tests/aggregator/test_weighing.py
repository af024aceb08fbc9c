"""How contributions are added up: as a weighted mean, or in whole numbers with noise for one owner or one record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cloister.aggregation.discrete_gaussian import discrete_gaussian
from cloister.aggregation.vectors import Vector
from cloister.aggregator.bodies import Update
from cloister.aggregator.collection import Collection
from cloister.aggregator.weighing import Answer, NoisyOwners, NoisyRecords, Weighing, WeightedMean, weighing_of
from cloister.charter.charter import Limits, Member
from cloister.errors import AggregationError, RoundError
from cloister.ledger.records import commitment
from cloister.wire.fixed_point import UNITS, most_drawn
from cloister.wire.layout import Layout, lay_out, regions_of
from cloister.wire.tensors import TensorSpec
from tests.support.owners import DRAWN, OWNER, RECORD, agree
from tests.support.rounds import fill

SALT = bytes(32)
CLIP, Z = 10.0, 2.0
ROWS, LR = DRAWN["sampling"].rows, DRAWN["optimizer"].lr
LENGTH = 4


def layout_of(length: int = LENGTH, dtype: Any = "float32") -> Layout:
    return lay_out({"weight": TensorSpec(dtype, (length,))})


def bytes_from(seed: int) -> Callable[[int], bytes]:
    return np.random.Generator(np.random.PCG64(seed)).bytes


def plain(*, by_rows: bool = False, **limits: str) -> WeightedMean:
    layout = layout_of()
    return WeightedMean(agree(**limits).limits, layout, by_rows=by_rows, regions=regions_of(layout, buffers=()))


def owners(length: int = LENGTH, *, seed: int = 1, **limits: str) -> NoisyOwners:
    return NoisyOwners(agree(noise=OWNER, **limits).limits, layout_of(length), random=bytes_from(seed))


def records(length: int = LENGTH, *, seed: int = 1, dtype: str = "float32", lr: float = LR) -> NoisyRecords:
    limits, sampling = agree(noise=RECORD, job=DRAWN).limits, DRAWN["sampling"]
    return NoisyRecords(limits, layout_of(length, dtype), sampling=sampling, lr=lr, random=bytes_from(seed))


def answer(name: str, norm: float = 1.0, *, examples: int = 10, vector: Vector | None = None) -> Answer:
    committed = commitment(SALT, memoryview(b"" if vector is None else vector.tobytes()))
    return Answer(Member(name=name, role="owner", key=name, id=name), examples, (norm, 0.0), {}, committed)


def update(vector: Vector) -> Update:
    """A contribution that has arrived."""
    found = Update(np.empty_like(vector), salt=SALT, regions=regions_of(layout_of(len(vector)), buffers=()))
    fill(found, vector.tobytes())
    return found


def vector_of(weighing: Weighing, *values: float, length: int = LENGTH) -> Vector:
    return np.array([*values, *[0] * (length - len(values))], weighing.dtype)


def added(weighing: Weighing, contributions: Mapping[str, Vector]) -> Vector:
    """What comes of them, each declared as long as it is and checked."""
    answers = {
        name: answer(name, float(np.linalg.norm(each.astype(np.float64)))) for name, each in contributions.items()
    }
    weighing.weigh(answers)
    weighing.begin()
    for name, each in contributions.items():
        arrived = update(each)
        weighing.check(answers[name], arrived)
        weighing.add(name, answers[name], arrived)
    return weighing.mean()


def noise_of(length: int, *, seed: int = 1) -> Vector:
    return discrete_gaussian(Z * UNITS, size=length, random=bytes_from(seed)).astype(np.float64)


# All of them


@pytest.mark.parametrize("make", [plain, owners, records])
def test_below_the_floor_there_is_no_round(make: Callable[[], Weighing]) -> None:
    weighing = make()
    weighing.weigh({name: answer(name) for name in "ab"})
    with pytest.raises(RoundError, match="1 owner is left in the round, and the floor is 2"):
        weighing.weigh({"a": answer("a")})
    with pytest.raises(RoundError, match="0 owners are left"):
        weighing.weigh({})


@pytest.mark.parametrize("make", [plain, owners, records])
def test_owners_weigh_the_same_unless_their_rows_count(make: Callable[[], Weighing]) -> None:
    weighing = make()
    weighing.weigh({name: answer(name, examples=10 * at) for at, name in enumerate("abcd", 1)})
    assert dict(weighing.weights) == dict.fromkeys("abcd", 0.25)


def test_by_rows() -> None:
    weighing = plain(by_rows=True, largest_share="0.5")
    weighing.weigh({"a": answer("a", examples=10), "b": answer("b", examples=30), "c": answer("c", examples=40)})
    assert dict(weighing.weights) == {"a": 0.125, "b": 0.375, "c": 0.5}


def test_a_job_has_what_its_charter_asks_for() -> None:
    layout = layout_of()
    given: dict[str, Any] = {"layout": layout, "regions": regions_of(layout, buffers=()), "random": bytes_from(0)}
    kinds = {
        WeightedMean: agree(),
        NoisyOwners: agree(noise=OWNER),
        NoisyRecords: agree(noise=RECORD, job=DRAWN),
    }
    for kind, charter in kinds.items():
        assert type(weighing_of(charter.jobs[0], limits=charter.limits, **given)) is kind


# Without noise


def test_none_counts_for_more_than_the_floor_th_largest() -> None:
    weighing = plain()
    found = added(weighing, {"a": vector_of(weighing, 8), "b": vector_of(weighing, 0, 2), "c": vector_of(weighing, 1)})
    assert found.tolist() == pytest.approx([1.0, 2 / 3, 0, 0])
    before = weighing.how("a")
    weighing.weigh({"a": answer("a", 8.0), "c": answer("c", 1.0)})
    assert weighing.how("a") != before


def test_what_changes_nothing_and_what_is_longer_than_declared() -> None:
    weighing = plain()
    with pytest.raises(RoundError, match="changes nothing"):
        weighing.check(answer("a"), update(vector_of(weighing)))
    with pytest.raises(RoundError, match="at most what its owner declared"):
        weighing.check(answer("a", 0.99), update(vector_of(weighing, 1)))


# With noise


@pytest.mark.parametrize("make", [owners, records])
def test_there_is_no_mean_without_the_charters_noise(make: Callable[[], Weighing]) -> None:
    weighing = make()
    weighing._limits = replace(weighing._limits, noise=None)
    with pytest.raises(AggregationError, match="the charter has none"):
        added(weighing, {name: vector_of(weighing, 1) for name in "ab"})


@pytest.mark.parametrize("make", [owners, records])
def test_it_is_in_no_order_and_the_same_for_the_same_bytes(make: Callable[..., Weighing]) -> None:
    values = {name: vector_of(make(), at, 1) for at, name in enumerate("abc", 1)}
    found = added(make(), values)
    assert added(make(), dict(reversed(values.items()))).tobytes() == found.tobytes()
    assert added(make(seed=2), values).tobytes() != found.tobytes()


@pytest.mark.parametrize("make", [owners, records])
@pytest.mark.parametrize("names", ["ab", "abcdefgh"])
def test_how_an_owner_counts_depends_on_nobody_elses_contribution(make: Callable[[], Weighing], names: str) -> None:
    """Not on how many there are, and not on how long the others' are: a bound that did would tell of them."""
    weighing = make()
    found = []
    for norm in (1e-3, 9.0):
        weighing.weigh({"a": answer("a"), **{name: answer(name, norm) for name in names if name != "a"}})
        found.append(weighing.how("a"))
    weighing.weigh({name: answer(name) for name in "xy"})
    assert found[0] == found[1]
    assert weighing.how("a") != found[0]


@pytest.mark.parametrize("make", [owners, records])
def test_a_sum_begins_empty(make: Callable[[], Weighing]) -> None:
    values = {name: vector_of(make(), 2) for name in "ab"}
    weighing = make()
    weighing.begin()
    weighing.add("z", answer("z"), update(vector_of(weighing, 3, 3, 3)))
    assert added(weighing, values).tobytes() == added(make(), values).tobytes()


# One owner is hidden


@pytest.mark.parametrize("count", [2, 5])
def test_the_deviation_is_the_multiplier_times_the_clip_times_one_owners_weight(count: int) -> None:
    length = 4000
    weighing = owners(length)
    given = {str(at): vector_of(weighing, 1.0 + at, length=length) for at in range(count)}
    noise = added(weighing, given) - sum(given.values()) / count
    deviation = Z * CLIP / count
    assert abs(noise.std() / deviation - 1) < 6.2 / (2 * length) ** 0.5
    assert abs(noise.mean()) < 6.2 * deviation / length**0.5


def test_the_longest_owner_is_not_levelled() -> None:
    weighing = owners()
    given = {"a": vector_of(weighing, CLIP), "b": vector_of(weighing, 0, 1e-3), "c": vector_of(weighing, 0, 0, 1e-3)}
    found = added(weighing, given) - noise_of(LENGTH) * CLIP / UNITS / 3
    assert found == pytest.approx([CLIP / 3, 1e-3 / 3, 1e-3 / 3, 0], abs=CLIP / UNITS)


def test_an_owner_that_changes_nothing_is_one_of_them() -> None:
    weighing = owners()
    found = added(weighing, {"a": vector_of(weighing), "b": vector_of(weighing, 4)})
    assert found - noise_of(LENGTH) * CLIP / UNITS / 2 == pytest.approx([2, 0, 0, 0], abs=CLIP / UNITS)


def test_an_owner_that_is_longer_than_it_said_or_than_the_clip() -> None:
    weighing = owners()
    with pytest.raises(RoundError, match="at most what its owner declared"):
        weighing.check(answer("a", 0.99), update(vector_of(weighing, 1)))
    with pytest.raises(AggregationError, match="longer than the charter's clip"):
        added(weighing, {"a": vector_of(weighing, 1.001 * CLIP), "b": vector_of(weighing, 1)})


# One record is hidden


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_is_a_step_down_the_clipped_gradients_and_noise(dtype: str) -> None:
    """Whatever the model's element type, sums are of the grid's."""
    weighing = records(dtype=dtype)
    assert weighing.dtype == np.int32
    given = {"a": vector_of(weighing, 3, -7), "b": vector_of(weighing, 100_000), "c": vector_of(weighing, 0, 0, 1)}
    step = LR * CLIP / UNITS / ROWS
    assert added(weighing, given) == pytest.approx((np.array([100_003, -7, 1, 0]) + noise_of(LENGTH)) * step, rel=1e-12)


def test_the_deviation_is_the_multiplier_times_the_clip_over_the_rows_of_the_job() -> None:
    length = 4000
    weighing = records(length, lr=1.0)
    noise = added(weighing, {name: vector_of(weighing, length=length) for name in "abcde"})
    assert abs(noise.std() / (Z * CLIP / ROWS) - 1) < 6.2 / (2 * length) ** 0.5


def test_nothing_drawn_is_a_contribution() -> None:
    weighing = records()
    weighing.check(answer("a", 0.0), update(vector_of(weighing)))
    found = added(weighing, {"a": vector_of(weighing), "b": vector_of(weighing)})
    assert found == pytest.approx(noise_of(LENGTH) * LR * CLIP / UNITS / ROWS, rel=1e-12)


def test_no_sum_is_longer_than_that_over_all_records_that_may_be_drawn() -> None:
    weighing = records()
    most = most_drawn(ROWS) * UNITS
    for longest in ([most], [-most], [3 * most / 5, 4 * most / 5]):
        weighing.check(answer("a", 0.0), update(vector_of(weighing, *longest)))
    for longer in ([most + 1], [-most - 1], [3 * most / 5 + 1, 4 * most / 5], [2**31 - 1] * LENGTH):
        with pytest.raises(RoundError, match="longer than the sum over all records"):
            weighing.check(answer("a", 0.0), update(vector_of(weighing, *longer)))


# In a collection


def collecting(weighing: Weighing, limits: Limits, names: Sequence[str]) -> tuple[Collection, dict[str, Vector]]:
    vectors = {name: vector_of(weighing, 1, at) for at, name in enumerate(names)}
    answers = {
        name: answer(name, float(np.linalg.norm(each.astype(np.float64))) * (1 + 1e-9), vector=each)
        for name, each in vectors.items()
    }
    layout = layout_of()
    regions = regions_of(layout, buffers=())
    return Collection(answers, limits=limits, weighing=weighing, layout=layout, regions=regions), vectors


def pull(collection: Collection, vectors: Mapping[str, Vector]) -> str:
    """All who are asked contribute. Returns their names."""
    asked = ""
    while pulled := collection.next():
        for name in pulled:
            buffer = collection.buffer(name, salt=SALT)
            fill(buffer, vectors[name].tobytes())
            collection.take(name, buffer)
        asked += "".join(pulled)
    assert collection.complete
    return asked


@pytest.mark.parametrize("make", [owners, records])
@pytest.mark.parametrize(("lost", "again"), [("a", "bcde"), ("e", "")])
def test_a_sum_begins_anew_without_one_that_was_in_it_and_only_then(
    make: Callable[[], Any], lost: str, again: str
) -> None:
    """The last one has arrived, and is added once there is nothing else to wait for."""
    weighing = make()
    collection, vectors = collecting(weighing, weighing._limits, "abcde")
    assert pull(collection, vectors) == "abcde"
    collection.leave_out(lost)
    assert pull(collection, vectors) == again
    left = {name: each for name, each in vectors.items() if name != lost}
    assert collection.mean().tobytes() == added(make(), left).tobytes()
