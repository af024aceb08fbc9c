"""An executor, or a trainer, that somebody has taken over: ``python -m tests.attacks.taken_over``, started as the real
one is. Up to the first frame it *is* the real one; then it makes the calls of ``tests.attacks.native_calls``.

``CLOISTER_TARGETS`` says what it attacks, and whether it was confined before.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import msgspec
import torch

from cloister.node.ipc import Link
from cloister.node.program import run
from cloister.node.session import executor_process
from cloister.node.study import trainer_process
from cloister.wire.frames import Kind
from tests.attacks import native_calls
from tests.attacks.native_calls import Targets


class Orders(msgspec.Struct, frozen=True):
    """What a test wants of this process."""

    trains: bool
    confined: bool
    targets: Targets


class Answers(msgspec.Struct, frozen=True):
    """What came of it."""

    calls: dict[str, bool]
    threads: dict[int, bool]


def attack(orders: Orders) -> Answers:
    torch.ones(300, 300) @ torch.ones(300, 300)  # as many threads as it may have
    threads = native_calls.from_each_thread(orders.targets, threads=torch.get_num_threads())
    return Answers(native_calls.answers(orders.targets), threads)


def main(arguments: list[str]) -> None:
    orders = msgspec.json.decode(os.environ["CLOISTER_TARGETS"], type=Orders)
    real: Any = trainer_process if orders.trains else executor_process

    def serve(link: Link, _: object) -> None:
        link.send(Kind.ANSWER, msgspec.json.encode(attack(orders)))

    real.serve = serve
    if not orders.confined:
        real.confine = lambda data, *, device: None
    real.main(arguments)


if __name__ == "__main__":
    run(main, log=logging.getLogger("taken over"))  # type: ignore[arg-type]
