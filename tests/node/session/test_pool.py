"""The pool of executors, with children that are no processes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from cloister.errors import ConnectionLostError, WorkerCrashedError
from cloister.node.session import pool as pools
from cloister.node.session.child import Child
from cloister.node.session.pool import Pool


class PlayedChild:
    def __init__(self, *, ready: bool = True) -> None:
        self._ready = ready
        self.prompt = True
        self.ended = False

    def wait_ready(self, *, within_s: float) -> bool:
        return self._ready

    def end(self) -> None:
        self.ended = True


class Nursery:
    """Starts played children; ``fates`` says which of the first become ready."""

    def __init__(self, *fates: bool | OSError) -> None:
        self._fates = iter(fates)
        self.started: list[PlayedChild] = []
        self.news = threading.Condition()
        self.threads: set[threading.Thread] = set()

    def __call__(self) -> Child:
        fate = next(self._fates, True)
        with self.news:
            self.threads.add(threading.current_thread())
            if isinstance(fate, OSError):
                raise fate
            self.started.append(PlayedChild(ready=fate))
            self.news.notify_all()
            return self.started[-1]  # type: ignore[return-value]

    def wait(self, number: int) -> None:
        with self.news:
            assert self.news.wait_for(lambda: len(self.started) == number, timeout=20)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_LEAVING_S", 0.01)
    monkeypatch.setattr(pools, "_PAUSE_S", 0.01)


def admitted(pool: Pool) -> Child:
    child = pool.admit()
    assert child is not None
    return child


def test_spares_wait_and_are_replaced() -> None:
    nursery = Nursery()
    pool = Pool(nursery, sessions=4, spares=2)
    nursery.wait(2)
    child = admitted(pool)
    assert child is nursery.started[0]  # type: ignore[comparison-overlap]
    nursery.wait(3)
    pool.release(child)
    pool.release(child)
    assert nursery.started[0].ended
    pool.close()
    assert all(child.ended for child in nursery.started)
    assert len(nursery.threads) == 1  # executors die with the thread that started them


def test_no_more_sessions_than_agreed_and_no_spare_that_none_could_use() -> None:
    nursery = Nursery()
    pool = Pool(nursery, sessions=2, spares=2)
    children = [admitted(pool), admitted(pool)]
    assert pool.admit() is None
    assert len(nursery.started) == 2
    pool.release(children[0])
    assert admitted(pool) is not children[0]
    pool.close()


def test_a_caller_waits_for_a_session_that_is_just_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_LEAVING_S", 20.0)
    pool = Pool(Nursery(), sessions=1, spares=0)
    child = admitted(pool)
    results: list[Child | None] = []
    thread = threading.Thread(target=lambda: results.append(pool.admit()), daemon=True)
    thread.start()
    pool.release(child)
    thread.join(20)
    assert results[0] is not None
    pool.close()


def test_without_spares_each_session_starts_its_own() -> None:
    nursery = Nursery()
    pool = Pool(nursery, sessions=2, spares=0)
    pool.warm()
    assert not nursery.started
    admitted(pool)
    assert len(nursery.started) == 1
    pool.close()


def test_a_spare_that_died_is_passed_over() -> None:
    nursery = Nursery(False)
    pool = Pool(nursery, sessions=2, spares=1)
    nursery.wait(1)
    assert admitted(pool) is nursery.started[1]  # type: ignore[comparison-overlap]
    assert nursery.started[0].ended
    pool.close()


def test_executors_that_cannot_be_started_are_told_of_and_hold_no_place() -> None:
    nursery = Nursery(False, False, True)
    pool = Pool(nursery, sessions=1, spares=0)
    with pytest.raises(WorkerCrashedError):
        pool.admit()
    admitted(pool)
    pool.close()


def test_a_node_that_cannot_work_says_so_at_its_start() -> None:
    pool = Pool(Nursery(False), sessions=2, spares=1)
    with pytest.raises(WorkerCrashedError):
        pool.warm()
    pool.close()


def test_a_system_that_gives_no_process_is_asked_again() -> None:
    pool = Pool(Nursery(OSError(11, "try again"), OSError(11, "try again")), sessions=2, spares=1)
    pool.warm()
    admitted(pool)
    pool.close()


@pytest.mark.parametrize("act", [lambda pool: pool.admit(), lambda pool: pool.warm()])
def test_a_closed_pool_admits_nobody(act: Callable[[Pool], Child | None]) -> None:
    pool = Pool(Nursery(), sessions=2, spares=0)
    pool.close()
    assert act(pool) is None


def test_a_caller_is_told_before_it_waits_and_otherwise_not() -> None:
    """What a caller is told is longer than all that may be waited for together."""
    told: list[float] = []
    nursery = Nursery()
    pool = Pool(nursery, sessions=3, spares=1)
    pool.warm()
    first = pool.admit(tell=told.append)
    assert not told  # a spare was ready
    nursery.wait(2)
    nursery.started[1].prompt = False
    pool.admit(tell=told.append)
    assert told == [pytest.approx(pools._LEAVING_S + 2 * pools._ATTEMPTS * pools._START_S)]
    pool.admit()
    assert pool.admit(tell=told.append) is None  # full
    assert len(told) == 2
    assert first is not None
    pool.close()


def test_a_caller_that_leaves_while_it_is_told_leaves_no_executor() -> None:
    def leave(_: float) -> None:
        raise ConnectionLostError("it has left")

    nursery = Nursery()
    pool = Pool(nursery, sessions=1, spares=1)
    pool.warm()
    nursery.started[0].prompt = False
    with pytest.raises(ConnectionLostError):
        pool.admit(tell=leave)
    assert nursery.started[0].ended
    admitted(pool)
    pool.close()


def test_a_caller_hears_that_the_system_gives_no_process() -> None:
    pool = Pool(Nursery(OSError(24, "Too many open files")), sessions=1, spares=0)
    with pytest.raises(OSError, match="Too many open files"):
        pool.admit()
    admitted(pool)
    pool.close()
