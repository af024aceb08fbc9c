"""Moving 100 MB in either direction, against a bare TLS socket that moves the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.bare_tls import bare_tls
from bench.measure import in_turn, ratio, show
from cloister.testing.federation import LocalFederation

_BYTES = 100_000_000


def run(console: Console, folder: Path) -> None:
    """(d)."""
    with LocalFederation(folder, ["bob"]) as nodes:
        nodes.start("bob")
        with nodes.connect("bob") as bob, bare_tls(nodes.researcher) as bare:
            values: Any = torch.rand(_BYTES // 4)
            view = memoryview(values.view(torch.uint8).numpy())

            def send() -> None:
                values.send(bob)
                bob.count()

            there = values.send(bob)
            sending = in_turn({"bare TLS": lambda: bare.send(view), "send": send}, repeats=11)
            getting = in_turn({"bare TLS": lambda: bare.get(_BYTES), "get": lambda: there.get(keep=True)}, repeats=11)
    for verb, timings in (("send", sending), ("get", getting)):
        show(console, f"(d) {verb} of 100 MB", timings, against="bare TLS", unit="ms")
        speed = ratio(timings["bare TLS"], timings[verb])
        console.print(f"    {verb} runs at {speed:.2f}x of the bare socket's speed (aim: at least 0.9x)\n")
