"""Addresses are read in one place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.errors import ConfigurationError
from cloister.wire.peers import Address, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("bob.example:7443", Address("bob.example", 7443)),
        ("192.0.2.7:0", Address("192.0.2.7", 0)),
        ("[::1]:7443", Address("::1", 7443)),
        ("[2001:db8::7]:65535", Address("2001:db8::7", 65535)),
        ("[fe80::1%eth0]:7443", Address("fe80::1%eth0", 7443)),
        ("my_host-1:1", Address("my_host-1", 1)),
    ],
)
def test_addresses(text, address):
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("bob.example", "write host:port"),
        (":7443", "write host:port"),
        ("", "write host:port"),
        ("bob:", "no port"),
        ("bob:65536", "no port"),
        ("bob:-1", "no port"),
        ("bob:٣", "no port"),
        ("bob:123456", "no port"),
        ("::1:7443", "brackets"),
        ("[::1:7443", "brackets"),
        ("[bob]:7443", "no IPv6 address"),
        ("https://bob:7443", "no host name"),
        ("a b:1", "no host name"),
        ("a" * 254 + ":1", "no host name"),
    ],
)
def test_refused_addresses_say_why(text, why):
    with pytest.raises(ConfigurationError, match=why):
        parse_address(text)


@given(st.text())
def test_any_text_is_an_address_or_refused(text):
    try:
        address = parse_address(text)
    except ConfigurationError:
        return
    assert parse_address(str(address)) == address
