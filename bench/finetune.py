"""A LoRA study of language models: bytes, memory and time of a round. And what it takes to open a large file."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from time import perf_counter, process_time
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import cloister
from bench.proxy import DelayingProxy
from bench.rounds import processor_time
from cloister.testing.studies import AGGREGATOR, LocalColumns, LocalStudy
from cloister.worker.weights import Weights

MB: Final = 1_000_000
MIB: Final = 1 << 20
OWNERS: Final = ("alice", "bob", "carol")
BATCH, LENGTH, STEPS, ROUNDS = 16, 64, 2, 3
RATE: Final = 0.05
SIZES: Final[Mapping[str, Mapping[str, Any]]] = {
    "10^7": {"n_embd": 256, "n_layer": 8, "n_head": 4, "vocab_size": 12_000},
    "3 * 10^7": {"n_embd": 512, "n_layer": 6, "n_head": 8, "vocab_size": 16_000},
    "10^8": {"n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 19_000},
}
FILE_GB: Final = 8


@cloister.plan
def loss(model: nn.Module, ids: Tensor, labels: Tensor) -> Tensor:
    """Of the next token."""
    found: Tensor = model(input_ids=ids, labels=labels).loss
    return found


@dataclass
class Measured:
    """A study of one size."""

    parameters: int
    learned: int
    """Bytes."""
    up: float
    down: float
    """Bytes for each owner in a round."""
    private: int
    shared: int
    aggregator: int
    """Bytes of memory: of an owner's training process; and by how much the aggregator's grew."""
    seconds: float
    plain: float
    processor: float
    plain_processor: float
    """Seconds of a processor: of all owners and the aggregator, and of the plain loop."""


def run(console: Console, folder: Path) -> None:
    """(x) and (y)."""
    table = Table(title="(x) a LoRA study, three owners, two steps of 16 x 64 tokens a round", title_justify="left")
    table.caption = (
        "MB learned, and bytes to it; MiB of a trainer, and more at the aggregator; seconds, and of a processor"
    )
    for column in ("size", "MB", "up", "down", "private", "shared", "aggregator"):
        table.add_column(column, justify="right")
    for column in ("s", "plain s", "CPU s", "plain CPU s", "ratio"):
        table.add_column(column, justify="right")
    for size, config in SIZES.items():
        with tempfile.TemporaryDirectory(dir=folder) as name:
            found = measure(Path(name), config)
        table.add_row(
            size,
            f"{found.learned / MB:.2f}",
            f"{found.up / found.learned:.3f}x",
            f"{found.down / found.learned:.3f}x",
            f"{found.private / MIB:,.0f}",
            f"{found.shared / MIB:,.0f}",
            f"{found.aggregator / MIB:.0f}",
            f"{found.seconds:.1f}",
            f"{found.plain:.1f}",
            f"{found.processor:.1f}",
            f"{found.plain_processor:.1f}",
            f"{found.processor / found.plain_processor:.2f}x",
        )
    console.print(table)
    console.print(large_file(folder / "large.safetensors"))


def adapted(folder: Path, config: Mapping[str, Any]) -> nn.Module:
    """A GPT-2 of this size, with an adapter on its attention; its base is in files in the folder."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, GPT2Config

    torch.manual_seed(0)
    whole = GPT2Config(bos_token_id=0, eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **config)
    AutoModelForCausalLM.from_config(whole).save_pretrained(folder, max_shard_size="200MB")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    model.config.use_cache = False
    target = LoraConfig(task_type="CAUSAL_LM", r=8, target_modules=["c_attn"], fan_in_fan_out=True)
    found: nn.Module = get_peft_model(model, target)
    return found


def measure(folder: Path, config: Mapping[str, Any]) -> Measured:
    """A study, and the same training in a plain loop."""
    model = adapted(folder / "base", config)
    base = cloister.Base(folder / "base")
    ids = torch.randint(config["vocab_size"], (4 * BATCH, LENGTH))
    plan = loss.capture(model, example=(ids[:4], ids[:4]))
    numbers: dict[str, Any] = {
        "optimizer": cloister.SGD(lr=RATE),
        "batch_size": BATCH,
        "steps": STEPS,
        "rounds": ROUNDS,
    }
    owners = {}
    for name in OWNERS:
        np.savez(folder / f"{name}.npz", ids=ids.numpy(), labels=ids.numpy())
        owners[name] = [LocalColumns(folder / f"{name}.npz", ("ids", "labels"), ("#text",))]
    limits = {
        "first_model": cloister.model_digest(model, plan, base=base),
        "bases": {"base": [*base.digests.values()]},
        "largest_share": 0.4,
        "metrics": {"loss": (0.0, 100.0)},
    }
    job = cloister.job("tune", plan, data="#text", **numbers)
    with LocalStudy(folder, owners, jobs=[job], limits=limits, models=[*base.digests]) as study:
        marks, most, before = followed(study, model, plan, base=base, **numbers)
    each = [tuple((b - a) for a, b in zip(*pair, strict=True)) for pair in pairwise(marks)][1:]
    seconds, processor, up, down = (statistics.median(column) for column in zip(*each, strict=True))
    learned = [held for held in model.parameters() if held.requires_grad]
    alone, alone_processor = plain(model, ids)
    return Measured(
        parameters=sum(held.numel() for held in model.parameters()),
        learned=sum(held.nbytes for held in learned),
        up=up / len(OWNERS),
        down=down / len(OWNERS),
        private=most["Private"],
        shared=most["Shared"],
        aggregator=peak(most) - before,
        seconds=seconds,
        processor=processor,
        plain=alone,
        plain_processor=alone_processor,
    )


def followed(
    study: LocalStudy, model: nn.Module, plan: cloister.Plan, **numbers: Any
) -> tuple[list[tuple[float, float, int, int]], Mapping[str, int], int]:
    """The time, the seconds of all processors and the bytes up and down by then, at the start and after each round; the
    most memory meanwhile; and the aggregator's before."""
    study.start_aggregator()
    (route,) = study.routes.values()
    with DelayingProxy(route) as proxy:
        for name in OWNERS:
            study.detour(name, proxy.address)
        study.start()
        study.gather()
        before = memory(study.pid(AGGREGATOR))["Rss"]

        def now() -> tuple[float, float, int, int]:
            return perf_counter(), processors(study), proxy.sent, proxy.received

        marks = [now()]
        with watching(study) as most:
            study.study().fit(model, plan, data="#text", on_round=lambda _: marks.append(now()), **numbers)
    return marks, most, before


def plain(model: nn.Module, ids: Tensor) -> tuple[float, float]:
    """Seconds of the same round in one process, and of a processor: three owners in turn, and their mean."""
    found = []
    for _ in range(ROUNDS):
        started = perf_counter(), process_time()
        total: dict[str, Tensor] = {}
        for _ in OWNERS:
            local = copy.deepcopy(model)
            learned = {name: held for name, held in local.named_parameters() if held.requires_grad}
            optimizer = torch.optim.SGD(learned.values(), RATE)
            for rows in ids[: STEPS * BATCH].split(BATCH):
                optimizer.zero_grad()
                local(input_ids=rows, labels=rows).loss.backward()
                optimizer.step()
            for name, held in learned.items():
                total[name] = total.get(name, torch.zeros(())) + held.detach() / len(OWNERS)
        found.append((perf_counter() - started[0], process_time() - started[1]))
    seconds, processor = (statistics.median(column) for column in zip(*found, strict=True))
    return seconds, processor


def processors(study: LocalStudy) -> float:
    """The seconds that all processes of a study have computed so far."""
    own = [study.pid(name) for name in (AGGREGATOR, *OWNERS)]
    return sum(processor_time(pid) for parent in own for pid in (parent, *children(parent)))


def memory(pid: int) -> dict[str, int]:
    """What a process holds, in bytes: ``Rss``, and of it ``Private`` and ``Shared`` (smaps_rollup)."""
    found = {"Rss": 0, "Private": 0, "Shared": 0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        match = re.match(r"(Rss|Private|Shared)_?\w*: +(\d+) kB", line)
        if match:
            found[match[1]] += int(match[2]) << 10
    return found


@contextmanager
def watching(study: LocalStudy) -> Iterator[dict[str, int]]:
    """The most that the first owner's training process holds, and the aggregator's, looked at ten times a second."""
    most = {"Private": 0, "Shared": 0, AGGREGATOR: 0}
    done = Event()

    def look() -> None:
        while not done.wait(0.1):
            most[AGGREGATOR] = max(most[AGGREGATOR], memory(study.pid(AGGREGATOR))["Rss"])
            for pid in children(study.pid(OWNERS[0])):
                try:
                    seen = memory(pid)
                except OSError:
                    continue
                if seen["Private"] > most["Private"]:
                    most.update(Private=seen["Private"], Shared=seen["Shared"])

    watcher = Thread(target=look)
    watcher.start()
    try:
        yield most
    finally:
        done.set()
        watcher.join()


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def peak(most: Mapping[str, int]) -> int:
    """The most that the aggregator held."""
    return most[AGGREGATOR]


def large_file(path: Path) -> Table:
    """Opens a file of weights in bfloat16, takes its digest, and uses a tensor of it."""
    write_large(path)
    table = Table(title=f"(y) a safetensors file of {FILE_GB} GB", title_justify="left")
    for column in ("", "seconds", "GB/s", "memory, + MiB"):
        table.add_column(column, justify="right" if column else "left")
    try:
        before, started = memory(os.getpid())["Rss"], perf_counter()
        weights = Weights(path)
        _large_row(table, "open and map", started, before, 0)
        before, started = memory(os.getpid())["Rss"], perf_counter()
        weights.digest()
        _large_row(table, "digest", started, before, path.stat().st_size)
        block = bytes(1 << 24)
        before, started = memory(os.getpid())["Rss"], perf_counter()
        for _ in range(64):
            hashlib.sha256(block).digest()
        _large_row(table, "  SHA-256 of as many bytes in memory", started, before, 64 << 24)
        before, started = memory(os.getpid())["Rss"], perf_counter()
        tensor = weights.tensor("layer.3")
        tensor.view(torch.int16).max()
        _large_row(table, f"first use of a tensor of {tensor.nbytes / MB:.0f} MB", started, before, tensor.nbytes)
    finally:
        path.unlink()
    return table


def _large_row(table: Table, name: str, started: float, before: int, nbytes: int) -> None:
    seconds = perf_counter() - started
    grown = (memory(os.getpid())["Rss"] - before) / MIB
    table.add_row(name, f"{seconds:.4f}", f"{nbytes / 1e9 / seconds:.2f}" if nbytes else "", f"{grown:.1f}")


def write_large(path: Path) -> None:
    """Writes layers of 64 MiB, block by block."""
    shape, each = [8192, 4096], 8192 * 4096 * 2
    count = FILE_GB * 10**9 // each
    header = {
        f"layer.{at}": {"dtype": "BF16", "shape": shape, "data_offsets": [at * each, (at + 1) * each]}
        for at in range(count)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block = np.random.default_rng(0).bytes(each)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in range(count):
            file.write(block)
