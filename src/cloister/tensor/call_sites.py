"""Lines of the caller's script, as small numbers: a worker's error comes back with the number of the line that asked
for it."""

from __future__ import annotations

import os
import sys
from traceback import walk_tb
from types import CodeType, FrameType
from typing import Final

import torch

import cloister

_LIBRARIES: Final = tuple(
    os.path.dirname(os.path.abspath(module.__file__ or "")) + os.sep for module in (torch, cloister)
)
_STANDARD: Final = os.path.dirname(os.__file__) + os.sep
_LIMIT: Final = 1 << 20
_INSTRUCTIONS: Final = 1 << 14
"""So many at most are known at once: each keeps its code, of which ``exec`` and notebooks make ever more."""

_is_library: dict[str, bool] = {}
_numbers: dict[tuple[str, int], int] = {}
_places: list[tuple[str, int]] = []
_instructions: dict[tuple[int, int], tuple[int, CodeType]] = {}
"""The numbers by where in which code: a line is looked for from its function's beginning on. The code is kept, so that
none is ever where it was."""


def current(*, above: int = 2) -> int:
    """The number of the innermost line on the stack that belongs neither to PyTorch nor to cloister; 0 if there is
    none. So many frames ``above`` this one are known to be cloister's, and not looked at."""
    frame: FrameType | None = sys._getframe(above)
    while frame is not None:
        code = frame.f_code
        filename = code.co_filename
        try:
            library = _is_library[filename]
        except KeyError:
            library = _library(filename)
        if not library:
            known = _instructions.get((id(code), frame.f_lasti))
            return _number_of(frame) if known is None else known[0]
        frame = frame.f_back
    return 0


def within(code: CodeType) -> bool:
    """Whether a function of this code is being run in this thread."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None


def asked_by_keras() -> bool:
    """Whether it is Keras' own code that called the caller of this."""
    return str(sys._getframe(2).f_globals.get("__name__")).startswith("keras.src.")


def asked_for() -> str:
    """``layers.py, line 9, reached from train.py, line 12``: the innermost line as ``current`` has it and, where that
    is an installed package's, the innermost one of the script."""
    frame: FrameType | None = sys._getframe(1)
    first = ""
    while frame is not None:
        filename = frame.f_code.co_filename
        if not _library(filename):
            line = f"{os.path.basename(filename)}, line {frame.f_lineno}"
            if not _installed(filename):
                return f"{first}, reached from {line}" if first else line
            first = first or line
        frame = frame.f_back
    return first or "an unknown line"


def _installed(filename: str) -> bool:
    folders = filename.split(os.sep)
    return "site-packages" in folders or "dist-packages" in folders or filename.startswith(_STANDARD)


def raised(fault: BaseException) -> int:
    """The number of the innermost such line that an exception came through; 0 if there is none."""
    number = 0
    for frame, line in walk_tb(fault.__traceback__):
        if not _library(frame.f_code.co_filename):
            number = _number(frame.f_code.co_filename, line)
    return number


def _library(filename: str) -> bool:
    return _is_library.setdefault(filename, filename.startswith((*_LIBRARIES, "<frozen")))


def _number(filename: str, line: int) -> int:
    place = (filename, line)
    number = _numbers.get(place)
    if number is None:
        if len(_places) >= _LIMIT:
            return 0
        _places.append(place)
        number = _numbers[place] = len(_places)
    return number


def _number_of(frame: FrameType) -> int:
    code = frame.f_code
    number = _number(code.co_filename, frame.f_lineno)
    if len(_instructions) >= _INSTRUCTIONS:
        _instructions.clear()
    if number:
        _instructions[id(code), frame.f_lasti] = number, code
    return number


def describe(number: int) -> str:
    """``train.py, line 12`` for a number that ``current`` gave out."""
    if not 1 <= number <= len(_places):
        return "an unknown line"
    filename, line = _places[number - 1]
    return f"{os.path.basename(filename)}, line {line}"
