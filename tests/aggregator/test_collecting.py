"""The pull of contributions."""

from __future__ import annotations

import tracemalloc

import numpy as np

from cloister.aggregator.collecting import Answer, Collection
from cloister.aggregator.mean import Contribution, mean
from cloister.aggregator.records import commitment
from cloister.charter.charter import Member
from cloister.wire.layout import lay_out
from cloister.wire.tensors import TensorSpec
from tests.aggregator.driving import agree, fill

LENGTH = 1 << 18
SALT = bytes(32)


def pulled(count: int) -> tuple[np.ndarray, int]:
    """The mean of so many contributions, and the most bytes that were held at once to come to it."""
    update = np.linspace(-1, 1, LENGTH, dtype=np.float32).tobytes()
    committed = commitment(SALT, memoryview(update))
    names = [f"owner {at:03}" for at in range(count)]
    answers = {
        name: Answer(Member(name=name, role="owner", key=name), 10 + at, {}, committed) for at, name in enumerate(names)
    }
    limits, layout = agree(clip="1e6").limits, lay_out({"weight": TensorSpec("float32", (LENGTH,))})
    tracemalloc.start()
    try:
        collection = Collection(answers, limits=limits, layout=layout)
        while asked := collection.next():
            rooms = {name: collection.room(name, salt=SALT) for name in asked}
            for name in reversed(asked):
                fill(rooms[name], update)
                collection.take(name, rooms[name])
        assert collection.complete
        return collection.mean(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_members() -> None:
    """A sum of twice a contribution's size, two contributions, and a few blocks; the mean takes the sum's place."""
    found, few = pulled(4)
    _, many = pulled(40)
    assert many < few + LENGTH // 4
    assert many < 4 * LENGTH * 4 + 8 * (1 << 20)
    update = np.linspace(-1, 1, LENGTH, dtype=np.float32)
    wanted = mean({f"owner {at:03}": Contribution(update, 10 + at) for at in range(4)})
    assert found.tobytes() == wanted.tobytes()
