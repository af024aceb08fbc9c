"""The house's rules, as tables: who may import whom, what runs without torch, what touches nothing.

Read the three tables and you know the architecture. A package that is not built yet may stand in them; one that is
built and does not stand in them fails.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Container, Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "cloister"

# --- 1. Imports point down. Bottom to top; each package with all that it may import. Imports inside functions and for
#        type checkers count too. The front door, cloister/__init__.py, may name everything: it loads nothing early.
MAY_IMPORT = {
    # what everybody may use
    "errors": "",
    "files": "errors",
    "tables": "errors",
    "wire": "errors",
    # what is agreed and proved: pure, so that an auditor can run it on a bare machine. A recipe for the first model is
    # part of what a charter agrees on
    "attest": "errors files tables wire",
    "models": "errors tables wire",
    "charter": "errors tables wire attest models",
    # tensors: where they are named, and where they live
    "tensor": "errors wire",
    "worker": "errors files wire models charter tensor",
    # what an owner sees of a plan, before it runs: the half of plans that needs no torch
    "plans": "errors wire tensor",
    # what noise is worth: numbers in, numbers out, and nothing that the enclave needs
    "accounting": "errors",
    # rounds: their arithmetic, what all parties verify of them, and the secure worker. No tensor and no worker below
    # them, because the enclave holds no torch
    "aggregation": "errors wire",
    "ledger": "errors wire attest models charter aggregation",
    "aggregator": "errors wire attest charter aggregation ledger",
    # between machines
    "net": "errors files tables wire attest charter tensor worker",
    # who drives: the researcher, the enclave's host, the owner, someone else's fleet
    "study": "errors files tables wire attest models charter tensor worker plans accounting aggregation ledger net",
    "simulation": "errors wire charter tensor worker aggregation ledger study",
    "enclave": "errors files wire attest charter aggregation ledger aggregator net",
    "node": "errors files tables wire attest models charter tensor worker plans accounting aggregation ledger net",
    "engines": "errors files wire attest charter tensor worker aggregation ledger net study node",
    # for people who build on cloister, and for people at a terminal
    "testing": "errors files tables wire attest charter tensor worker aggregation ledger aggregator net study enclave "
    "node",
    "demo": "errors files wire attest charter tensor worker accounting aggregation ledger aggregator net study enclave "
    "node testing",
    "cli": "errors files tables wire attest models charter tensor worker plans accounting aggregation ledger net study "
    "enclave node engines testing demo",
}

# --- 2. What works where only the base install is: importing it must not need what the extras bring.
NOT_IN_BASE = (
    "torch",
    "safetensors",
    "sklearn",
    "pyarrow",
    "dp_accounting",
    "scipy",
    "matplotlib",
    "tensorboard",
    "keras",
)
BASE = (
    "__init__",
    "__main__",
    "errors",
    "files",
    "tables",
    "wire",
    "attest",
    "models",
    "charter",
    "tensor.optable",
    "tensor.schemas",
    "tensor.plan.program",
    "tensor.plan.encoding",
    "tensor.plan.learned",
    "tensor.plan.listing",
    "plans",
    "accounting",
    "aggregation",
    "ledger",
    "aggregator",
    "net",
    "enclave",
    "node",
    "cli",
)
NEEDS_TORCH = {
    "net.client": "hands out pointers",
    "node.program": "what the processes that hold tensors have in common",
    "node.session.data_sets": "loads an owner's data sets, inside that process",
    "node.session.executor_process": "the process of one session, where its tensors live",
    "node.study.trainer_process": "trains on an owner's data sets, in a process of its own",
}

# --- 3. What touches nothing: bytes and values in, values out. Whoever calls brings the socket, the clock, the file.
OUTSIDE = {
    "socket": "asyncio http select selectors socket socketserver ssl urllib",
    "clock": "sched time",  # a datetime is a value; whoever asks for the present is found by READS_THE_CLOCK
    "file": "cloister.files fileinput glob importlib.resources mmap os pathlib shutil tempfile",
    "thread": "_thread concurrent queue threading",
    "process": "multiprocessing os signal subprocess",
    "chance": "random secrets uuid",
}
EVERYTHING = " ".join(OUTSIDE)
READS_THE_CLOCK = ("now", "today", "utcnow")
UNTOUCHED = {
    "errors": EVERYTHING,
    "tables": EVERYTHING,
    "wire": EVERYTHING,
    "attest": EVERYTHING,
    "models": EVERYTHING,
    "charter": EVERYTHING,
    "aggregation": EVERYTHING,
    "ledger": EVERYTHING,
    "aggregator": EVERYTHING,
    "node.study.member": EVERYTHING,
    "node.study.replica": EVERYTHING,
    "node.study.countersigner": EVERYTHING,
    "node.study.effects": EVERYTHING,
    "node.study.own_limits": EVERYTHING,
    "node.study.budgets": EVERYTHING,
    "simulation.splitting": EVERYTHING,
    "tensor": "socket clock file process",
    "plans": EVERYTHING,
    "accounting": EVERYTHING,
}
EXCEPT = {
    "attest.attester": "reads the evidence from the device, inside a TEE",
    "attest.roots": "the makers' root certificates are files of the package",
    "tensor.forks": "is told when this process forks, and starts none",
    "tensor.optable": "the table of operations is a file of the package",
    "tensor.call_sites": "tells the caller's files from the libraries' by their names, and opens none",
}


def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name below ``cloister``; a package goes by its own name."""
    names = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[-1] == "__init__" and len(parts) > 1:
            parts = parts[:-1]
        names[".".join(parts)] = path
    return names


def package(module: str) -> str:
    return module.partition(".")[0]


def lies_in(module: str, places: Iterable[str]) -> bool:
    """Whether ``module``, or a package around it, is one of ``places``."""
    return any(module == place or module.startswith(f"{place}.") for place in places)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """The line and dotted name of everything that the file at ``path`` imports, at whatever depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports out in full, so that the layers can be read"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def opens_files(path: Path) -> Iterator[int]:
    """The lines on which something is called ``open``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and "open" in (getattr(node.func, "id", ""), getattr(node.func, "attr", "")):
            yield node.lineno


def reads_the_clock(path: Path) -> Iterator[int]:
    """The lines on which a class or module is asked for the present: ``datetime.now(...)``, ``date.today()``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in READS_THE_CLOCK:
            yield node.lineno


def test_the_tables_agree_with_themselves():
    order = list(MAY_IMPORT)
    for name, below in MAY_IMPORT.items():
        assert set(below.split()) <= set(order[: order.index(name)]), f"{name} may only import what stands above it"
    assert set(map(package, [*BASE, *NEEDS_TORCH, *UNTOUCHED, *EXCEPT])) <= {"__init__", "__main__", *order}


def test_every_package_stands_in_the_table():
    strangers = {package(module) for module in modules()} - {"__init__", "__main__", *MAY_IMPORT}
    assert not strangers, f"give {sorted(strangers)} a place in MAY_IMPORT"


@pytest.mark.slow
@pytest.mark.parametrize("name", MAY_IMPORT)
def test_imports_point_down(name):
    allowed = {name, *MAY_IMPORT[name].split()}
    wrong = []
    for module, path in modules().items():
        if package(module) != name:
            continue
        for line, target in imports(path):
            top, _, rest = target.partition(".")
            # `from cloister import errors` names a package; `from cloister import __version__` names the front door.
            if top == "cloister" and package(rest) in MAY_IMPORT and package(rest) not in allowed:
                wrong.append(f"{path}:{line}: {name} must not import {target}")
    assert not wrong, "\n".join(wrong)


def loaded_by(path: Path, known: Container[str]) -> set[str]:
    """The modules of the package that the file at ``path`` loads, at once or later; not for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unread = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in unread:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("cloister.") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = f"{node.module}".removeprefix("cloister").removeprefix(".")
            names = [f"{source}.{alias.name}".removeprefix(".") for alias in node.names]
            found |= {name if name in known else source for name in names}
    return {name for name in found if name in known}


@pytest.mark.slow
def test_no_modules_import_each_other():
    known = modules()
    graph = {name: loaded_by(path, known) for name, path in known.items() if name not in ("__init__", "__main__")}
    assert list(TopologicalSorter(graph).static_order())  # or CycleError, which names the modules


@pytest.mark.parametrize(
    ("source", "loads"),
    [
        ("from cloister.net.tls import wrap", {"net.tls"}),
        ("from cloister.net import tls", {"net.tls"}),
        ("from cloister import errors", {"errors"}),
        ("import cloister.net.tls", {"net.tls"}),
        ("def late():\n    from cloister.net import tls", {"net.tls"}),
        ("if TYPE_CHECKING:\n    from cloister.net import tls", set()),
        ("import ssl", set()),
    ],
)
def test_what_a_module_loads_is_found(tmp_path, source, loads):
    (tmp_path / "module.py").write_text(source)
    assert loaded_by(tmp_path / "module.py", {"errors", "net.tls", "net"}) == loads


WITHOUT_EXTRAS = """
import importlib, json, sys, traceback

absent, names = json.loads(sys.argv[1])

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
failures = {}
for name in names:
    try:
        importlib.import_module(name)
    except BaseException:
        failures[name] = traceback.format_exc(limit=-3)
print(json.dumps(failures))
"""


def run_without_extras(program: str, names: list[str]) -> str:
    argument = json.dumps([NOT_IN_BASE, names])
    done = subprocess.run([sys.executable, "-c", program, argument], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_base_install_needs_no_torch():
    names = [
        "cloister" if module == "__init__" else f"cloister.{module}"
        for module in modules()
        if lies_in(module, BASE) and not lies_in(module, NEEDS_TORCH)
    ]
    failures = json.loads(run_without_extras(WITHOUT_EXTRAS, names))
    assert not failures, "\n".join(f"{name} needs one of {NOT_IN_BASE}:\n{why}" for name, why in failures.items())


POINTER = """
import cloister
try:
    cloister.PointerTensor
except cloister.errors.MissingDependencyError as error:
    print(error)
"""


def test_a_name_that_needs_torch_says_what_to_install():
    assert "pip install 'cloister[torch]'" in run_without_extras(WITHOUT_EXTRAS + POINTER, [])


def test_the_front_door_opens_quickly():
    heavy = {*NOT_IN_BASE, "numpy", "cryptography", "msgspec", "rich", "typer", "ssl"}
    program = "import sys, cloister; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not heavy & set(loaded)


def test_the_front_door_leads_to_every_name():
    import cloister

    assert set(cloister.__all__) <= set(dir(cloister))
    # Importing a submodule would put it in the place of the name.
    assert set(cloister.__all__) & {path.stem for path in SOURCE.iterdir()} == {"errors"}
    for name in cloister.__all__:
        assert getattr(cloister, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = cloister.nonsense


@pytest.mark.slow
@pytest.mark.parametrize("name", UNTOUCHED)
def test_what_touches_nothing(name):
    forbidden = {root: kind for kind in UNTOUCHED[name].split() for root in OUTSIDE[kind].split()}
    wrong = []
    for module, path in modules().items():
        if not lies_in(module, [name]) or lies_in(module, EXCEPT):
            continue
        for line, target in imports(path):
            kinds = {kind for root, kind in forbidden.items() if lies_in(target, [root])}
            wrong += [f"{path}:{line}: {target} ({kind})" for kind in kinds]
        if "file" in UNTOUCHED[name].split():
            wrong += [f"{path}:{line}: open (file)" for line in opens_files(path)]
        if "clock" in UNTOUCHED[name].split():
            wrong += [f"{path}:{line}: the present (clock)" for line in reads_the_clock(path)]
    assert not wrong, f"{name} touches nothing of this kind; let the caller bring it:\n" + "\n".join(wrong)
