"""Calls every overload of the table with hostile arguments and reports what breaks the process. Run it after a torch
upgrade.

    python tools/fuzz_ops.py --seconds 600                    all overloads, behind their guards
    python tools/fuzz_ops.py --seconds 60 --only nll_loss     those whose name contains a text
    python tools/fuzz_ops.py --raw --only nll_loss_backward   without guards: shows what a guard is for
    python tools/fuzz_ops.py --show aten::mm 17               the arguments of one case, and then runs it

A case is drawn from (seed, overload, number) alone, so that every finding can be repeated. It starts from a valid
call, recorded while PyTorch's own operator samples run forward and backward (they need the package ``expecttest``;
without it, arguments are made up from the schema), and one to three arguments are then bent: sizes, numbers, indices,
dtypes, strides, emptiness.

Calls run in a forked child that is replaced when it dies. With a C compiler at hand, torch's allocations are fenced:
an inaccessible page on either side turns a read or write out of bounds into a signal, and each case runs twice over
differently filled memory, so that output which depends on memory that nobody wrote shows as a leak. Found are:

    crash    the process died by a signal              leak      an output holds memory that nobody wrote
    hang     no answer within the time-out             mutation  an argument changed that the schema calls read-only
    random   random numbers drawn without the flag

Exit status: 1 if there was a crash, leak, mutation or random, else 0."""

from __future__ import annotations

import argparse
import collections
import ctypes
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from hostile_arguments import Arguments, case, packet, record, tensors
from torch.utils._pytree import tree_map_only

from cloister.tensor import optable
from cloister.worker import gaps, guards

TIMEOUT_S = 6.0
USUAL = ("ok", "refused", "error")
ENOUGH = 6  # findings for one overload
CASES_A_CHILD = 3000
FENCE_VARIABLE = "CLOISTER_FUZZ_FENCE"

Fence = Callable[[int, int, int], None]


def fence() -> Fence | None:
    """The switch of the fenced allocator (on, byte to fill with, data at the start of its page); ``None`` if no cc."""
    library = os.environ.get(FENCE_VARIABLE)
    if library is not None:
        if not library:
            return None
        switch: Fence = ctypes.CDLL(library).fence
        shutil.rmtree(Path(library).parent)  # it is mapped
        return switch
    source, library = Path(__file__).with_name("fence.c"), str(Path(tempfile.mkdtemp(prefix="fence-")) / "fence.so")
    try:
        command = [shutil.which("cc") or "cc", "-O1", "-shared", "-fPIC", "-o", library, str(source)]
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        shutil.rmtree(Path(library).parent)
        library = ""
        print("no C compiler: without fences and leak checks")
    environment = os.environ | {FENCE_VARIABLE: library} | ({"LD_PRELOAD": library} if library else {})
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)  # noqa: S606 - itself, over the other allocator


# ---- Running a case --------------------------------------------------------------------------------------------------


class Runner:
    """Runs cases in this process; lives in the child."""

    def __init__(self, switch: Fence | None, seeds: dict[str, list[Arguments]], seed: int, *, guarded: bool) -> None:
        self.switch, self.seeds, self.seed, self.guarded = switch, seeds, seed, guarded

    def run(self, name: str, number: int) -> str:
        """``ok``, ``refused``, ``error``, or what was found."""
        first = self._once(name, number, fill=0x55, at_start=0)
        if isinstance(first, str) or self.switch is None or optable.load()[name].zero_fill:
            return first if isinstance(first, str) else "ok"
        second = self._once(name, number, fill=0xAA, at_start=1)
        if isinstance(second, str):
            return second
        return "ok" if len(first) == len(second) and all(map(_same, first, second)) else "leak"

    def _once(self, name: str, number: int, *, fill: int, at_start: int) -> str | list[torch.Tensor]:
        if self.switch:
            self.switch(1, fill, at_start)
        try:
            torch.manual_seed(0)
            try:
                arguments = case(name, number, self.seed, self.seeds)
            except Exception:  # noqa: BLE001 - a bend that this tensor does not take
                return "error"
            return self._call(name, arguments)
        finally:
            if self.switch:
                self.switch(0, 0, 0)

    def _call(self, name: str, arguments: Arguments) -> str | list[torch.Tensor]:
        row, schema = optable.load()[name], packet(name)._schema
        if self.guarded and row.guard:
            try:
                guards.check(name, arguments)
            except IndexError:
                return "refused"
        written = {a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write} | set(row.mutates)
        kept = tree_map_only(torch.Tensor, torch.clone, {k: v for k, v in arguments.items() if k not in written})
        state = torch.get_rng_state()
        try:
            out = packet(name)(*positional(schema, arguments), **keywords(schema, arguments))
            if name in gaps.LEAVE_GAPS:
                gaps.close(arguments, out)
            results = [t.clone() for t in tensors(out)] + [
                t.clone() for k in written for t in tensors(arguments.get(k))
            ]
        except Exception:  # noqa: BLE001 - torch refuses it, as it should
            return "error"
        if not row.random and not torch.equal(state, torch.get_rng_state()):
            return "random"
        for key, before in kept.items():
            if not all(map(_same, tensors(before), tensors(arguments[key]))):
                return "mutation"
        return results


def positional(schema: Any, arguments: Arguments) -> list[Any]:
    return [arguments.get(a.name, a.default_value) for a in schema.arguments if not a.kwarg_only]


def keywords(schema: Any, arguments: Arguments) -> Arguments:
    return {a.name: arguments[a.name] for a in schema.arguments if a.kwarg_only and a.name in arguments}


def _same(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Bit for bit."""
    if one.shape != two.shape or one.dtype != two.dtype or one.numel() == 0 or one.numel() > 2**24:
        return one.shape == two.shape and one.dtype == two.dtype
    return torch.equal(_bytes(one), _bytes(two))


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return (
        tensor.resolve_conj().resolve_neg().reshape(-1).clone(memory_format=torch.contiguous_format).view(torch.uint8)
    )


class Child:
    """A forked process that runs the cases whose names and numbers it reads from a pipe."""

    def __init__(self, runner: Runner) -> None:
        ask_read, self._ask = os.pipe()
        self._answer, answer_write = os.pipe()
        self.cases = 0
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._ask)
            os.close(self._answer)
            _serve(runner, ask_read, answer_write)
        os.close(ask_read)
        os.close(answer_write)

    def run(self, name: str, number: int) -> str:
        """The outcome; after ``crash (signal)`` or ``hang`` this child is gone."""
        self.cases += 1
        os.write(self._ask, f"{name} {number}\n".encode())
        ready, _, _ = select.select([self._answer], [], [], TIMEOUT_S)
        if not ready:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
            return "hang"
        answer = os.read(self._answer, 64).decode()
        if answer:
            return answer
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return f"crash ({signal.Signals(os.WTERMSIG(status)).name})" if os.WIFSIGNALED(status) else "crash (exit)"

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
        os.close(self._ask)
        os.close(self._answer)


def _serve(runner: Runner, ask: int, answer: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (6 << 30, 6 << 30))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    with os.fdopen(ask) as lines:
        for line in lines:
            name, number = line.split()
            try:
                outcome = runner.run(name, int(number))
            except Exception as error:  # noqa: BLE001 - reported, with its name
                outcome = f"broken ({type(error).__name__})"
            os.write(answer, outcome.encode())
    os._exit(0)


# ---- The campaign ----------------------------------------------------------------------------------------------------


def fuzz(runner: Runner, names: list[str], seconds: float) -> dict[str, dict[str, list[int]]]:
    """Cases round robin over ``names`` until the time is up: outcome -> overload -> numbers of the cases."""
    found: dict[str, dict[str, list[int]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    deadline, child = time.monotonic() + seconds, Child(runner)
    for name, number in _rounds(names):
        if time.monotonic() > deadline:
            break
        if (
            sum(len(numbers[name]) for kind, numbers in found.items() if kind not in USUAL and name in numbers)
            >= ENOUGH
        ):
            continue
        if child.pid == 0 or child.cases >= CASES_A_CHILD:
            child.close()
            child = Child(runner)
        outcome = child.run(name, number)
        if outcome not in USUAL:  # again alone: an earlier case may have spoilt this child's memory
            child.close()
            child = Child(runner)
            again = child.run(name, number)
            outcome = outcome if again == outcome else f"unsteady ({outcome}, {again})"
        found[outcome][name].append(number)
        if outcome not in USUAL:
            print(f"{outcome:16} {name} {number}", flush=True)
    child.close()
    return found


def _rounds(names: list[str]) -> Iterator[tuple[str, int]]:
    first = 0
    while True:
        for name in names:
            for number in range(first, first + 20):
                yield name, number
        first += 20


def main() -> int:
    """Run the campaign and print what was found."""
    parser = argparse.ArgumentParser(description="hostile arguments for every overload of the table")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="overloads whose name contains this text")
    parser.add_argument("--raw", action="store_true", help="without guards")
    parser.add_argument("--show", nargs=2, metavar=("NAME", "NUMBER"), help="print and run one case")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    switch = fence()
    runner = Runner(switch, record(), options.seed, guarded=not options.raw)
    if options.show:
        name, number = options.show[0], int(options.show[1])
        print(case(name, number, options.seed, runner.seeds), flush=True)
        print(runner.run(name, number))
        return 0
    names = [name for name in optable.load() if options.only in name]
    found = fuzz(runner, names, options.seconds)
    counts = {kind: sum(map(len, by_name.values())) for kind, by_name in found.items()}
    for kind in sorted(set(found) - set(USUAL)):
        for name, numbers in sorted(found[kind].items()):
            print(f"{kind:16} {name:60} cases {' '.join(map(str, numbers[:6]))}")
    print(f"{len(names)} overloads, {sum(counts.values())} cases: {counts}")
    return int(any(kind not in (*USUAL, "hang") for kind in found))


if __name__ == "__main__":
    sys.exit(main())
