"""The caller's end: what is queued, what leaves, what waits."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import pytest
import torch

from cloister.errors import MessageError, RemoteIndexError
from cloister.tensor.session import Location, geometry_from
from cloister.wire import sessions as m


class Recorder:
    """A channel that notes what is said and answers what it was told to."""

    fingerprint = "sha256:" + "0" * 64
    network = "test"

    def __init__(self, answer: object = None) -> None:
        self.batches: list[list[m.Command]] = []
        self.answer = answer or m.Counted(0, 0)
        self.closed = False

    def post(self, commands: list[m.Command], puts: list[torch.Tensor]) -> None:
        self.batches.append(commands)

    def ask(self, commands: list[m.Command], puts: list[torch.Tensor], *_: object) -> tuple[object, list[torch.Tensor]]:
        self.batches.append(commands)
        return self.answer, []

    def close(self) -> None:
        self.closed = True

    def abandon(self) -> None:
        pass


def call(number: int = 0) -> m.Call:
    return m.Call("aten::neg", [1], {}, (number + 2,), None, 0)


def names(commands: Sequence[m.Command]) -> list[str]:
    return [type(command).__name__ for command in commands]


def test_commands_leave_in_batches() -> None:
    channel = Recorder()
    location = Location("bob", channel, batch_commands=3)
    for number in range(7):
        location.post(call(number))
    assert [len(batch) for batch in channel.batches] == [3, 3]
    location.flush()
    assert len(channel.batches[-1]) == 1


def test_much_work_leaves_at_once() -> None:
    channel = Recorder()
    location = Location("bob", channel)
    location.post(call(), nbytes=1)
    assert not channel.batches
    location.post(call(1), nbytes=1 << 20)
    assert len(channel.batches) == 1


def test_a_question_takes_along_what_is_queued_here_and_lets_leave_what_is_queued_elsewhere() -> None:
    here, there = Recorder(), Recorder()
    one, two = Location("one", here), Location("two", there)
    one.post(call())
    two.post(call())
    one.count()
    assert [names(batch) for batch in (*here.batches, *there.batches)] == [["Call"], ["Call"]]


@pytest.mark.slow
def test_forgotten_objects_are_freed_after_their_last_use() -> None:
    channel = Recorder()
    location = Location("bob", channel)
    made = location.new_object()
    location.post(m.Call("aten::neg", [made.id], {}, (9,), None, 0))
    number = made.id
    del made
    gc.collect()
    location.flush()
    assert names(channel.batches[0]) == ["Call", "Free"]
    assert channel.batches[0][1].ids == (number,)


def test_ids_are_never_used_twice() -> None:
    location = Location("bob", Recorder())
    seen = {location.new_object().id for _ in range(1000)}
    assert len(seen) == 1000
    assert min(seen) == 1


def test_what_is_queued_does_not_change_with_the_callers_tensor() -> None:
    channel, x = Recorder(), torch.zeros(3)
    location = Location("bob", channel)
    kept = location.put(x)
    x.add_(1)
    assert location._puts[0].tolist() == [0.0, 0.0, 0.0]
    assert kept.id == 1


@pytest.mark.parametrize("tensor", [torch.zeros(2, dtype=torch.float8_e4m3fn), torch.eye(2).to_sparse()])
def test_what_does_not_travel_is_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(MessageError, match="does not travel"):
        Location("bob", Recorder()).put(tensor)


def test_an_answer_of_another_kind_is_refused() -> None:
    with pytest.raises(MessageError, match="Done"):
        Location("bob", Recorder(m.Done())).count()


def test_a_failure_becomes_its_error() -> None:
    failure = m.Failure("op.index", "aten::select.int", 0, "out of range")
    with pytest.raises(RemoteIndexError, match=r"out of range \(aten::select.int at worker bob"):
        Location("bob", Recorder(failure)).count()


def test_a_closed_location_is_no_longer_flushed_by_others() -> None:
    channel = Recorder()
    location, other = Location("bob", channel), Location("alice", Recorder())
    location.post(call())
    location.close()
    other.count()
    assert channel.closed
    assert not channel.batches


@pytest.mark.parametrize(
    "spec", [m.StridedSpec("float31", (2,), (1,)), m.StridedSpec("float32", (2,), ()), m.StridedSpec("object", (), ())]
)
def test_a_worker_cannot_describe_what_cannot_be(spec: m.StridedSpec) -> None:
    with pytest.raises(MessageError, match="cannot be"):
        geometry_from(spec)
