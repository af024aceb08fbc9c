"""Secrets that were provisioned to this process, in its memory and nowhere else.

A secret is kept once: whoever holds its name can say the same again, and cannot replace it. It is taken by code in this
process only; no message reads one back, and nothing here prints one. They arrive sealed for an instance that has proved
itself (docs/attestation.md).
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple

from cloister.attest.hpke import SealingKey
from cloister.errors import AttestationError, OpRefusedError, WorkerError
from cloister.net.connection import Connection, Frame
from cloister.net.proving import Instance, Prover
from cloister.wire.frames import Kind
from cloister.wire.limits import NAME_CHARS, SECRET_BYTES, TEXT_CHARS
from cloister.wire.messages import Provision
from cloister.wire.sessions import Done, Failure

PROVISION: Final = b"cloister provision 1\0"
"""What a sealed secret is bound to: this label, SHA-512(T), and the secret's name."""


def provision_info(report_data: bytes, name: str) -> bytes:
    """What a secret of this name is sealed with, on the connection whose transcript has this hash."""
    return PROVISION + report_data + name.encode()


class ProvisionedInstance(Instance):
    """An instance that secrets can be sealed to: a node's. ``options`` are an ``Instance``'s."""

    def __init__(self, **options: Any) -> None:
        self._sealing_key = SealingKey.generate()
        super().__init__(hpke_key=self._sealing_key.public_bytes(), **options)

    def unseal(self, sealed: bytes, *, info: bytes) -> bytes:
        """A secret that was sealed to this instance's key.

        Raises:
            NotGenuineError: it was sealed to another key, or for something else.
        """
        return self._sealing_key.unseal(sealed, info=info)


class SecretReceiver(Prover):
    """Answers one connection's challenges, and takes the secrets that are sealed for it.

    ``kept`` is called after each.
    """

    def __init__(
        self,
        connection: Connection,
        instance: ProvisionedInstance,
        *,
        secrets: Secrets,
        kept: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(connection, instance)
        self._receiver = instance
        self._secrets = secrets
        self._kept = kept

    def serve(self, frame: Frame) -> bool:
        """Answers one challenge or secret; False when the conversation is over.

        Raises:
            MessageError: the frame is neither. ConnectionLostError: the connection ended.
        """
        if frame.kind is not Kind.PROVISION or frame.body_bytes:
            return super().serve(frame)
        self._keep(frame.message())
        return True

    def _keep(self, provision: Provision) -> None:
        try:
            if self._report_data is None:
                raise WorkerError("a secret comes after a proof: challenge this instance first")
            info = provision_info(self._report_data, provision.name)
            secret = self._receiver.unseal(provision.sealed, info=info)
            self._secrets.keep(provision.name, secret, sender=self._connection.peer)
        except WorkerError as fault:
            self._fail(fault.code, str(fault))
        except AttestationError as fault:
            self._fail(WorkerError.code, str(fault))
        else:
            self._kept()
            self._connection.send(Kind.ANSWER, Done())

    def _fail(self, code: str, text: str) -> None:
        self._connection.send(Kind.FAILURE, Failure(code=code, op="", site=0, text=text[:TEXT_CHARS]))


NAMES: Final = 64
"""How many secrets one process keeps."""


class SecretName(NamedTuple):
    """A secret goes by its name *and* its sender's fingerprint, so that nobody can set another's."""

    name: str
    sender: str


class Secrets:
    """What was provisioned to this process. May be used by several threads.

    ``expected``: the secrets that have a use here; any other is refused, so that a stranger who verifies this instance
    cannot fill its memory. None: any, from anybody who shows a key.
    """

    def __init__(self, expected: Collection[SecretName] | None = None) -> None:
        self._expected = None if expected is None else frozenset(expected)
        self._kept: dict[SecretName, bytes] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return "<Secrets>"

    def keep(self, name: str, secret: bytes, *, sender: str) -> None:
        """Keeps a secret of 1 to 4096 bytes under a name of 1 to 128 printable characters. Once: the same again is done
        already.

        Raises:
            OpRefusedError: name or secret cannot be kept, ``sender`` is nobody, nobody here waits for it, another
                secret has that name, or there are 64 already.
        """
        if not (1 <= len(name) <= NAME_CHARS and name.isprintable() and name.strip()):
            raise OpRefusedError(f"a secret's name has 1 to {NAME_CHARS} printable characters")
        if not 1 <= len(secret) <= SECRET_BYTES:
            raise OpRefusedError(f"a secret has 1 to {SECRET_BYTES} bytes, not {len(secret)}")
        if not sender:
            raise OpRefusedError("a secret comes from somebody: show your certificate on the connection that brings it")
        key = SecretName(name, sender)
        if self._expected is not None and key not in self._expected:
            raise OpRefusedError(f"nothing here waits for a secret {name!r} from {sender}; its configuration says what")
        with self._lock:
            if len(self._kept) >= NAMES and key not in self._kept:
                raise OpRefusedError(f"{NAMES} secrets are kept here already, which is all that there may be")
            kept = self._kept.setdefault(key, bytes(secret))
        if not hmac.compare_digest(kept, secret):
            raise OpRefusedError(f"another secret is kept as {name!r} already; restart this instance to replace it")

    def expects(self, sender: str) -> bool:
        """Whether a secret from the peer with this fingerprint has a use here."""
        return any(each.sender == sender for each in self._expected or ())

    def take(self, name: str, *, sender: str) -> bytes | None:
        """The secret that ``sender`` has provisioned under this name; None where it has not, so far."""
        with self._lock:
            return self._kept.get(SecretName(name, sender))
