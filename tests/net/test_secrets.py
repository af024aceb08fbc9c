"""What was provisioned: kept once, found by its name and sender, and shown to nobody."""

from __future__ import annotations

import copy

import pytest

from cloister.errors import OpRefusedError
from cloister.net.secrets import NAMES, SecretName, Secrets
from cloister.wire.limits import SECRET_BYTES

BOB, EVE = "sha256:" + "b" * 64, "sha256:" + "e" * 64


def test_a_secret_is_found_by_its_name_and_sender() -> None:
    secrets = Secrets()
    assert secrets.take("mri-key", sender=BOB) is None
    secrets.keep("mri-key", b"bob's", sender=BOB)
    secrets.keep("mri-key", b"eve's", sender=EVE)
    assert secrets.take("mri-key", sender=BOB) == b"bob's"
    assert secrets.take("mri-key", sender=EVE) == b"eve's"
    assert secrets.take("ecg-key", sender=BOB) is None


def test_a_secret_is_written_once() -> None:
    secrets = Secrets()
    secrets.keep("mri-key", b"one", sender=BOB)
    secrets.keep("mri-key", b"one", sender=BOB)
    with pytest.raises(OpRefusedError, match="restart") as caught:
        secrets.keep("mri-key", b"two", sender=BOB)
    assert "one" not in str(caught.value)
    assert "two" not in str(caught.value)
    assert secrets.take("mri-key", sender=BOB) == b"one"


@pytest.mark.parametrize("name", ["", " ", "a" * 129, "a\nb", "a\0", "\u202e"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(OpRefusedError, match="1 to 128 printable"):
        Secrets().keep(name, b"x", sender=BOB)


@pytest.mark.parametrize("size", [0, SECRET_BYTES + 1])
def test_sizes_that_cannot_be(size: int) -> None:
    with pytest.raises(OpRefusedError, match="1 to 4096 bytes"):
        Secrets().keep("a", bytes(size), sender=BOB)


def test_nobody_provisions_nothing() -> None:
    with pytest.raises(OpRefusedError, match="certificate"):
        Secrets().keep("a", b"x", sender="")


def test_no_more_than_there_is_room_for() -> None:
    secrets = Secrets()
    for number in range(NAMES):
        secrets.keep(f"name {number}", b"x", sender=(BOB, EVE)[number % 2])
    with pytest.raises(OpRefusedError, match="64"):
        secrets.keep("one more", b"x", sender=BOB)
    secrets.keep("name 0", b"x", sender=BOB)  # as before
    assert secrets.take("one more", sender=BOB) is None


def test_only_what_is_waited_for() -> None:
    secrets = Secrets([SecretName("mri-key", BOB)])
    secrets.keep("mri-key", b"x", sender=BOB)
    for name, sender in [("mri-key", EVE), ("ecg-key", BOB)]:
        with pytest.raises(OpRefusedError, match="nothing here waits"):
            secrets.keep(name, b"x", sender=sender)


def test_nothing_shows_it() -> None:
    secrets = Secrets()
    secrets.keep("mri-key", b"hunter2", sender=BOB)
    for shown in (repr(secrets), str(secrets), f"{secrets}"):
        assert "hunter2" not in shown
        assert "mri-key" not in shown
    with pytest.raises(TypeError):  # a lock: no copies lie about
        copy.deepcopy(secrets)


def test_it_knows_whose_secrets_have_a_use() -> None:
    secrets = Secrets([SecretName("mri-key", BOB)])
    assert secrets.expects(BOB)
    assert not secrets.expects(EVE)
    assert not secrets.expects("")
    assert not Secrets().expects(BOB)
