"""The socket by which a node's owner speaks to it."""

from __future__ import annotations

import os
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.errors import ConfigurationError
from cloister.net.polling import Wakeup
from cloister.node import control
from cloister.node.config import Researcher, session_limits
from cloister.node.control import Control
from cloister.node.running import Running, Session
from cloister.node.slate import WORD_BYTES, WORDS, Slate


class PlayedChild:
    pid = os.getpid()

    def __init__(self) -> None:
        self.slate = Slate(memoryview(bytearray(WORDS * WORD_BYTES)))
        self.killed = threading.Event()

    def kill(self) -> None:
        self.killed.set()


class Scene:
    def __init__(self, path: Path) -> None:
        self.path = path
        limits = session_limits({})
        self.running = Running(limits)
        self.child = PlayedChild()
        researcher = Researcher("carol", "sha256:" + "c" * 64)
        self.running.enter(
            Session(4, researcher, self.child, limits=limits, place=self.running.reserve(researcher.fingerprint))
        )
        self.closing = Wakeup()
        self.control = Control(path, self.running, closing=self.closing)
        self.thread = threading.Thread(target=self.control.serve, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.closing.set()
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.control.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    folder = tmp_path / ("a folder of a long name" * 8)  # longer than a Unix socket's path may be
    folder.mkdir()
    scene = Scene(folder / "bob.sock")
    yield scene
    scene.close()


def test_sessions_are_listed_and_ended(scene: Scene) -> None:
    (account,) = control.sessions(scene.path)
    assert account == scene.running.accounts()[0]._replace(cpu_s=account.cpu_s, idle_s=account.idle_s)
    with pytest.raises(ConfigurationError, match="no session 5"):
        control.end(scene.path, 5)
    assert not scene.child.killed.is_set()
    control.end(scene.path, 4)
    assert scene.child.killed.is_set()


def test_the_socket_is_its_owners_alone_and_goes_with_the_node(scene: Scene) -> None:
    assert stat.S_IMODE(scene.path.stat().st_mode) == 0o600
    assert os.listdir(scene.path.parent) == ["bob.sock"]
    scene.close()
    assert not scene.path.exists()
    with pytest.raises(ConfigurationError, match="no node runs here"):
        control.sessions(scene.path)


def test_what_a_killed_node_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "bob.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(ConfigurationError, match="no node runs here"):
        control.sessions(path)
    first = Scene(path)
    second = Scene(path)
    first.close()
    assert len(control.sessions(path)) == 1  # the first took nothing of the second's away
    second.close()
    assert not path.exists()


@pytest.mark.parametrize("asked", [b"x\n", b'{"type":"kill"}\n', b'{"type":"end","session":"4"}\n', b"\xff\xfe\n"])
def test_nonsense_is_answered_in_words(scene: Scene, asked: bytes) -> None:
    with _connected(scene.path) as caller:
        caller.sendall(asked)
        assert b"nothing that can be asked" in caller.recv(4096)
    assert control.sessions(scene.path)


def test_a_line_without_an_end_is_cut_off(scene: Scene) -> None:
    with _connected(scene.path) as caller, pytest.raises(OSError, match=r"pipe|reset"):
        caller.sendall(bytes(1 << 26))
    assert control.sessions(scene.path)


@pytest.mark.slow
def test_who_says_nothing_does_not_keep_others_out(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_TAKES_S", 0.2)
    with _connected(scene.path) as silent:
        silent.sendall(b"{")
        assert control.sessions(scene.path)


def test_another_user_is_not_answered(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    user = os.geteuid() + 1
    monkeypatch.setattr(control, "_CREDENTIALS", _Played(user))
    with pytest.raises(ConfigurationError, match="cannot be asked"):
        control.end(scene.path, 4)
    assert not scene.child.killed.is_set()


class _Played(struct.Struct):
    """Credentials of another user."""

    def __new__(cls, user: int) -> _Played:
        return super().__new__(cls, "3i")

    def __init__(self, user: int) -> None:
        super().__init__("3i")
        self.user = user

    def unpack(self, buffer: object) -> tuple[int, int, int]:
        return 1, self.user, 1


def _connected(path: Path) -> socket.socket:
    caller = socket.socket(socket.AF_UNIX)
    caller.settimeout(20)
    os.chdir(path.parent)
    caller.connect(path.name)
    return caller


@pytest.fixture(autouse=True)
def back() -> Iterator[None]:
    before = Path.cwd()
    yield
    os.chdir(before)
