"""Addresses, and which of them are for one at a time."""

import pytest

from gateway.address import collide, parse_address


@pytest.mark.parametrize(
    "one,other,both",
    [
        ("127.0.0.1:8765", "127.0.0.1:8765", False),
        ("127.0.0.1:8765", "localhost:8765", False),
        ("127.0.0.1:8765", "0.0.0.0:8765", False),
        ("[::]:8765", "192.168.1.7:8765", False),
        ("[::1]:8765", "[0:0::1]:8765", False),
        ("Pi.lan:80", "pi.lan:80", False),
        ("127.0.0.1:8765", "127.0.0.1:8766", True),
        ("0.0.0.0:8765", "0.0.0.0:8766", True),
        ("127.0.0.1:8765", "192.168.1.7:8765", True),
    ],
)
def test_two_can_listen_where_the_port_or_the_host_is_another(one, other, both):
    assert collide(one, other) is collide(other, one) is not both


@pytest.mark.parametrize(
    "text,said",
    [
        ("8088", "write host:port"),
        ("127.0.0.1", "write host:port"),
        ("::1:80", "write host:port"),
        ("127.0.0.1:99999", "no port up to 65535"),
        ("127.0.0.1:" + "9" * 5000, "no port up to 65535"),
    ],
)
def test_what_is_no_address_says_what_is_wrong(text, said):
    with pytest.raises(ValueError, match=said):
        parse_address(text)
