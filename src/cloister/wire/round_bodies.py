"""The length of the body of a message from the aggregator, as the message says it. Members hold the body against it;
the aggregator looks at what it is sent elsewhere (``cloister.aggregator.bodies``)."""

from __future__ import annotations

from cloister.errors import LimitError, MessageError
from cloister.wire.limits import JOB_BYTES
from cloister.wire.rounds import Chain, Contribution, Resubmitted, RoundMessage, Submit, Work


def check_body(message: RoundMessage, body_bytes: int) -> None:
    """Checks the length of the body that came with a message, as far as the message says it.

    A contribution's, and that of the model behind a submitted job, are for the receiver to hold against its job.

    Raises:
        MessageError: it is longer or shorter than the message says. LimitError: a job over its limit.
    """
    match message:
        case Chain(records=records, model=model, state=state, step=step):
            expected = sum(records) + model + sum(state) + step
        case Contribution():
            return
        case Submit(job=job):
            expected = max(job, body_bytes)
        case Work() | Resubmitted():
            if body_bytes > JOB_BYTES:
                raise LimitError(f"a job of {body_bytes} bytes is over the limit of {JOB_BYTES}")
            expected = max(1, body_bytes)
        case _:
            expected = 0
    if body_bytes != expected:
        raise MessageError(f"a body of {body_bytes} bytes came with a message that says {expected}")
