"""Nothing that arrives can run: no pickle by any name, no eval, no import by a name that somebody sent.

The package's syntax trees are searched, not its text, so that a docstring may say the word.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "cloister"

# Modules that turn bytes into code or into arbitrary objects. multiprocessing pickles what its processes say to each
# other; its shared_memory does not.
MODULES = (
    "pickle _pickle cPickle cloudpickle dill joblib marshal entry_of copyreg jsonpickle code codeop runpy "
    "multiprocessing torch.multiprocessing torch.package"
).split()
HARMLESS = ("multiprocessing.shared_memory",)

# Builtins, called under their own name or through the module builtins.
BUILTINS = ("eval", "exec", "compile", "__import__")

# Functions, by the last two words of the call.
CALLS = {
    "torch.load",
    "torch.save",
    "jit.load",
    "hub.load",
    "yaml.load",
    "yaml.unsafe_load",
    "importlib.import_module",
    *(f"builtins.{name}" for name in BUILTINS),
}

# The front door loads its own modules by name, from a table that nobody else writes.
MAY_IMPORT_BY_NAME = {SOURCE / "__init__.py"}

# Functions of NumPy that unpickle, or pickle, unless they are told not to.
NUMPY = {f"{np}.{name}" for np in ("np", "numpy") for name in ("load", "save")}


def dotted(node: ast.expr) -> str:
    """``a.b.c`` for the expression that says so, ``""`` for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (left := dotted(node.value)):
        return f"{left}.{node.attr}"
    return ""


def is_in(name: str, modules: list[str] | tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def refused(tree: ast.AST, *, imports_by_name: bool = False) -> Iterator[tuple[int, str]]:
    """The line and name of everything in ``tree`` that this package does without."""
    calls = CALLS - {"importlib.import_module"} if imports_by_name else CALLS
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            stem = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for name in (stem + alias.name for alias in node.names):
                if (is_in(name, MODULES) and not is_in(name, HARMLESS)) or ".".join(name.split(".")[-2:]) in calls:
                    yield node.lineno, name
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            last_two = ".".join(name.split(".")[-2:])
            told = any(k.arg == "allow_pickle" and getattr(k.value, "value", True) is False for k in node.keywords)
            if name in BUILTINS or last_two in calls or (name in NUMPY and not told):
                yield node.lineno, name


@pytest.mark.slow
def test_nothing_that_arrives_can_run():
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for line, name in refused(tree, imports_by_name=path in MAY_IMPORT_BY_NAME):
            found.append(f"{path}:{line}: {name}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from torch import load",
        "from multiprocessing import Pool",
        "import torch.package",
        "torch.load(f)",
        "torch.jit.load(f)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "numpy.load(f, allow_pickle=flag)",
        "eval('1')",
        "builtins.exec('1')",
        "importlib.import_module(name)",
        "from importlib import import_module",
        "__import__(name)",
        "yaml.load(f)",
    ],
)
def test_the_search_finds(line):
    assert list(refused(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        '"pickle, eval and torch.load"',
        "np.load(f, allow_pickle=False)",
        "from multiprocessing import shared_memory",
        "re.compile('a')",
        "model.eval()",
        "json.load(f)",
    ],
)
def test_the_search_leaves(line):
    assert not list(refused(ast.parse(line)))
