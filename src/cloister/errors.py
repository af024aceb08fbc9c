"""Everything cloister raises.

    CloisterError
    ├── ConfigurationError            a file or an argument that cannot be used as it is
    │   ├── IdentityError             a key, certificate or fingerprint that cannot be used
    │   ├── CharterError              a charter, or a signature of one, that cannot be used
    │   └── DataSetError              a data set that cannot be trained on: damaged, or not what the training expects
    ├── MissingDependencyError        a package that is not installed (names the command that installs it)
    ├── PlanError                     a step that cannot become a plan, or a plan that cannot be run
    ├── WireError                     bytes from outside that break the rules of docs/wire.md
    │   ├── FrameError                not a frame
    │   ├── MessageError              a frame whose message does not decode
    │   ├── LimitError                a length, count, depth or name over its limit
    │   └── VersionError              no protocol version in common
    ├── AttestationError              evidence that does not lead to trust
    │   ├── EvidenceError             it cannot be read: no evidence at all
    │   ├── NotGenuineError           no genuine TEE made it
    │   ├── CollateralError           what the makers publish about TEEs is missing, out of date or broken
    │   ├── UnacceptableError         not what the reference accepts, or about something else (lists every failed check)
    │   └── NoTeeError                this process runs in no TEE, or its TEE gives no evidence
    ├── NetworkError                  a worker that cannot be reached or does not answer
    │   ├── UnreachableError          no connection could be made
    │   │   └── PutOffError           it wants to hear nothing of us for a while (``wait_s``)
    │   ├── PeerMismatchError         it answers with another key than the one that was named
    │   ├── PeerRefusedError          it does not know us
    │   ├── ConnectionLostError       the connection ended in the middle
    │   └── NoAnswerError             no answer within the time-out
    ├── WorkerError                   what a worker reports about one session
    │   ├── RemoteOpError             PyTorch refused it there (also a RuntimeError, LinAlgError, ... as locally)
    │   ├── OpRefusedError            an operation, or an argument, that no worker runs
    │   ├── HostileIndexError         an index that PyTorch would not check itself (also an IndexError)
    │   ├── MemoryLimitError          the session would hold more bytes than it may
    │   ├── ObjectLimitError          the session would hold more objects than it may
    │   ├── UnknownObjectError        an id that this session does not hold
    │   ├── InteractiveRefusedError   a registered data set that is closed to interactive use
    │   ├── MoveError                 values could not be pushed to the other worker
    │   ├── TrainingError             local training came to no update that can be used
    │   ├── RemotePlanError           a plan that it refuses, or cannot run as asked (also a PlanError)
    │   ├── RemoteDataSetError        columns that cannot be trained on (also a DataSetError)
    │   ├── RemoteConfigurationError  numbers that cannot be used (also a ConfigurationError)
    │   ├── WorkerCrashedError        the session's process died (a native crash, or it was killed)
    │   └── SessionEndedError         the worker ended the session: idle for too long, or its owner said so
    │       └── CpuLimitError         it used more CPU time than an operation, or a session, may
    ├── AggregationError              contributions that cannot be added up, or a model they cannot be added to
    ├── StudyError                    a study that cannot begin or go on
    │   ├── JobError                  a job that the charter, the aggregator or an owner's node does not take
    │   ├── RoundError                what was sent for a round is refused, or the round came to nothing
    │   └── LedgerError               records that are no chain of this charter, or another chain than the one known
    ├── RecordsError                  a node's own records of what it has signed cannot be read or written
    └── PointerError                  a use of a pointer that has no meaning
        ├── NotColocatedError         tensors that live in different places
        ├── PointerSpentError         its value was taken back by get()
        ├── PointerNotPortableError   pickling, copying, NumPy: a pointer is no value
        ├── PointerAssignmentError    an assignment or resize that would tear pointer and value apart
        ├── InheritedWorkerError      a worker of another process, which this one inherited by fork
        └── ImplicitDownloadError     a value that would come home unasked, inside a sent module's forward

No class here derives from ``TypeError``: Python swallows a ``TypeError`` raised inside a binary operator such as
``a @ b`` and answers ``NotImplemented`` in its place.

Messages say what happened and what to do next, and carry no tensor's values: a message can cross the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import ClassVar

_NAME_CHARS = 256
"""Of a name, so many characters are compared: it may be a stranger's."""


def meant(name: str, among: Iterable[str]) -> str:
    """The end of a sentence about a name that is not there: which of those that are there it is nearly; or nothing."""
    from difflib import get_close_matches  # for this alone, which is rare

    found = get_close_matches(name[:_NAME_CHARS], [each for each in among if len(each) <= _NAME_CHARS], n=1)
    return f": did you mean {found[0]!a}?" if found else ""


class CloisterError(Exception):
    """The root of the tree: ``except CloisterError`` catches all that cloister raises on purpose."""

    _keras_call_info_injected = True  # has Keras leave the sentence as it is, and not write its arguments around it


class ConfigurationError(CloisterError, ValueError):
    """A file or an argument that cannot be used as it is."""


class IdentityError(ConfigurationError):
    """A key, certificate or fingerprint that cannot be used."""


class CharterError(ConfigurationError):
    """A charter, or a signature of one, that cannot be used."""


class DataSetError(ConfigurationError):
    """A data set that cannot be trained on: damaged, in a form that is not read, or not what the training expects."""


class MissingDependencyError(CloisterError, ImportError):
    """A package that is not installed; the message holds the command that installs it."""


class PlanError(CloisterError):
    """A training step that cannot become a plan, or a plan that is refused or cannot be run as asked."""


class WireError(CloisterError):
    """Bytes from outside that break the rules of docs/wire.md."""


class FrameError(WireError):
    """The bytes are not a frame."""


class MessageError(WireError):
    """A frame whose message does not decode, or has no place at this point of the conversation."""


class LimitError(WireError):
    """A length, count, depth or name over its limit."""


class VersionError(WireError):
    """The two ends have no protocol version, or no table of operations, in common."""


class AttestationError(CloisterError):
    """Evidence that does not lead to trust: nothing is sent to whoever showed it."""


class EvidenceError(AttestationError):
    """The bytes are no evidence: they cannot be read."""


class NotGenuineError(AttestationError):
    """Readable evidence that no genuine TEE made."""


class CollateralError(AttestationError):
    """What the makers of TEEs publish about them is missing, out of date, or broken: nothing can be decided."""


class UnacceptableError(AttestationError):
    """Genuine evidence of something that the reference does not accept, or a proof that is about something else.

    ``failures``: every check that failed, a sentence each. ``genuine``: whether a genuine TEE is known to have made it;
    nobody looks into evidence whose proof is about something else.
    """

    def __init__(self, failures: Sequence[str], *, genuine: bool = True) -> None:
        self.failures = tuple(failures)
        self.genuine = genuine
        verdict = "genuine, but not acceptable" if genuine else "not acceptable"
        super().__init__(f"{verdict}: {'; '.join(self.failures)}")

    def __reduce__(self) -> tuple[Callable[..., UnacceptableError], tuple[tuple[str, ...]]]:
        return partial(type(self), genuine=self.genuine), (self.failures,)


class NoTeeError(AttestationError):
    """This process runs in no TEE, or its TEE gives no evidence."""


class NetworkError(CloisterError):
    """A worker that cannot be reached or does not answer."""


class UnreachableError(NetworkError):
    """No connection could be made."""


class PutOffError(UnreachableError):
    """The worker does not let this identity in for a while: its sessions have crashed again and again.

    ``wait_s``: for how long, in seconds.
    """

    def __init__(self, text: str, wait_s: float = 0.0) -> None:
        self.wait_s = wait_s
        super().__init__(text)

    def __reduce__(self) -> tuple[type[PutOffError], tuple[str, float]]:
        return type(self), (str(self), self.wait_s)


class PeerMismatchError(NetworkError):
    """The other end proved another key than the one that was named."""


class PeerRefusedError(NetworkError):
    """The other end does not accept this identity."""


class ConnectionLostError(NetworkError):
    """The connection ended in the middle."""


class NoAnswerError(NetworkError):
    """No answer within the time-out."""


class WorkerError(CloisterError):
    """What a worker reports about one session.

    ``code`` is the name that travels; ``from_code`` turns it back into the class.
    """

    code: ClassVar[str] = "worker"
    _by_code: ClassVar[dict[str, type[WorkerError]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        WorkerError._by_code[cls.code] = cls

    @classmethod
    def from_code(cls, code: str) -> type[WorkerError]:
        """The class that ``code`` names, or ``WorkerError`` itself for one that this version does not know."""
        return cls._by_code.get(code, WorkerError)


class RemoteOpError(WorkerError):
    """PyTorch refused the operation at the worker."""

    code = "op"


class RemoteRuntimeError(RemoteOpError, RuntimeError):
    """The operation raised ``RuntimeError`` at the worker."""

    code = "op.runtime"


class RemoteIndexError(RemoteOpError, IndexError):
    """The operation raised ``IndexError`` at the worker."""

    code = "op.index"


class RemoteValueError(RemoteOpError, ValueError):
    """The operation raised ``ValueError`` at the worker."""

    code = "op.value"


class RemoteNotImplementedError(RemoteOpError, NotImplementedError):
    """The worker's device has no kernel for the operation."""

    code = "op.not-implemented"


class OpRefusedError(WorkerError):
    """An operation, or an argument of one, that no worker runs."""

    code = "refused"


class HostileIndexError(WorkerError, IndexError):
    """An index out of range in an operation that does not check it itself."""

    code = "hostile-index"


class MemoryLimitError(WorkerError, MemoryError):
    """The session would hold more bytes than it may."""

    code = "memory"


class ObjectLimitError(WorkerError):
    """The session would hold more objects than it may."""

    code = "objects"


class UnknownObjectError(WorkerError, LookupError):
    """An id that this session does not hold."""

    code = "unknown-object"


class InteractiveRefusedError(WorkerError):
    """A registered data set that its owner keeps closed to interactive use."""

    code = "interactive"


class MoveError(WorkerError):
    """Values could not be pushed to the other worker."""

    code = "move"


class TrainingError(WorkerError):
    """Local training came to no update that can be used."""

    code = "training"


class RemotePlanError(WorkerError, PlanError):
    """The worker refused the plan, or could not run it as asked."""

    code = "plan"


class RemoteDataSetError(WorkerError, DataSetError):
    """The worker cannot train on these columns."""

    code = "data-set"


class RemoteConfigurationError(WorkerError, ConfigurationError):
    """The worker cannot train with these numbers."""

    code = "configuration"


class WorkerCrashedError(WorkerError):
    """The session's process died: a native crash, or it was killed."""

    code = "crashed"


class SessionEndedError(WorkerError):
    """The worker ended the session: it was idle for too long, or the worker's owner ended it."""

    code = "ended"


class CpuLimitError(SessionEndedError):
    """An operation, or the session, used more CPU time than it may; that ended the session."""

    code = "cpu"


class AggregationError(CloisterError):
    """Contributions that cannot be added up, or a model that they cannot be added to."""


class StudyError(CloisterError):
    """A study that cannot begin or go on."""


class JobError(StudyError):
    """A job that the charter, the aggregator or an owner's node does not take."""


class RoundError(StudyError):
    """What was sent for a round is refused, or the round came to nothing."""


class LedgerError(StudyError):
    """Records that are no chain of this charter, or that leave the chain that is known here."""


class RecordsError(CloisterError):
    """A node's own records of what it has signed cannot be read or written: it signs nothing until they can."""


class PointerError(CloisterError):
    """A use of a pointer that has no meaning."""


class NotColocatedError(PointerError, RuntimeError):
    """Tensors that live in different places met in one operation."""


class PointerSpentError(PointerError, RuntimeError):
    """The pointer's value was taken back by ``get()``."""


class PointerNotPortableError(PointerError, RuntimeError):
    """Pickling, shallow copying or a NumPy view of a pointer."""


class PointerAssignmentError(PointerError, RuntimeError):
    """An assignment or a resize that would tear pointer and value apart."""


class InheritedWorkerError(PointerError, RuntimeError):
    """A worker whose session another process opened: this one inherited it by ``fork`` and cannot use it."""


class ImplicitDownloadError(PointerError, RuntimeError):
    """Inside a sent module's ``forward``, a conversion to the CPU or a copy into a local tensor: nobody asked for the
    value to come home."""
