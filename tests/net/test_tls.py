"""What is said of a handshake that came to nothing."""

from __future__ import annotations

import errno
import os
import ssl

import pytest

from cloister.net.tls import handshake_error


@pytest.mark.parametrize(
    "fault",
    [
        ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)),
        OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN)),
        ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
    ],
    ids=["within it", "before it", "in the middle of a record"],
)
def test_the_other_end_has_closed_it(fault):
    assert str(handshake_error(fault, 1.0)).startswith("it closed the connection during the TLS handshake")
