"""The side that is given secrets: they are sealed for an instance that has proved itself (docs/attestation.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cloister.errors import AttestationError, WorkerError
from cloister.net.connection import Connection, Frame
from cloister.net.proving import Instance, Prover
from cloister.net.secrets import Secrets
from cloister.wire.frames import Kind
from cloister.wire.limits import TEXT_CHARS
from cloister.wire.messages import Provision
from cloister.wire.sessions import Done, Failure

PROVISION: Final = b"cloister provision 1\0"
"""What a sealed secret is bound to: this label, SHA-512(T), and the secret's name."""


def provision_info(report_data: bytes, name: str) -> bytes:
    """What a secret of this name is sealed with, on the connection whose transcript has this hash."""
    return PROVISION + report_data + name.encode()


class SecretReceiver(Prover):
    """Answers one connection's challenges, and takes the secrets that are sealed for it.

    ``kept`` is called after each.
    """

    def __init__(
        self, connection: Connection, instance: Instance, *, secrets: Secrets, kept: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(connection, instance)
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
            secret = self._instance.unseal(provision.sealed, info=info)
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
