"""Options of the http sink: what is refused, in which words, and what is told although it is legal."""

import msgspec
import pytest

from gateway.quantity import option_hook
from sinks.http import Options


def sink(**options):
    return msgspec.convert({"url": "https://h/in", **options}, Options, dec_hook=option_hook)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "ftp://h"}, "write it like https://host/path"),
        ({"url": "h/in"}, "write it like https://host/path"),
        ({"url": "https://"}, "is no url"),
        ({"url": "https://h:99999/"}, "has no port from 1 to 65535"),
        ({"url": "https://[::1/"}, "has no port from 1 to 65535"),
        ({"url": "https://me:secret@h/in"}, "no login inside the url; use token_file"),
        ({"url": "https://h/in#part"}, "what follows # is never sent"),
        ({"url": "https://{gateway}.example/in"}, "the host must be written out"),
        ({"url": "https://h/{steam}"}, "did you mean {stream}?"),
        ({"url": "https://h/{"}, "can be filled in"),
        ({"url": "https://h/a b"}, "a url is ASCII without spaces"),
        ({"url": "https://h/ä"}, "a url is ASCII without spaces"),
        ({"url": "http://h", "ca_file": "/ca"}, "https://"),
        ({"cert_file": "/c"}, "belong together"),
        ({"key_password_file": "/p"}, "needs a key_file"),
        ({"username": "me"}, "belong together"),
        ({"username": "a:b", "password_file": "/p"}, "a colon"),
        ({"username": "me", "password_file": "/p", "token_file": "/t"}, "two logins"),
        ({"headers": {"X Y": "1"}}, "no name of a header"),
        ({"headers": {"X-Y": "a\r\nHost: b"}}, "printable ASCII"),
        ({"headers": {"X-Y": " north"}}, "without spaces around it"),
        ({"headers": {"Idempotency-Key": "1"}}, "written by the gateway itself"),
        ({"headers": {"tidegate-first": "1"}}, "written by the gateway itself"),
        ({"headers": {"Authorization": "Bearer x"}}, "is secret; write it to a file"),
        ({"headers": {"X-Api-Key": "x"}}, "header_files: {X-Api-Key: PATH}"),
        ({"headers": {"X-A": "1"}, "header_files": {"x-a": "/p"}}, "is there twice"),
        ({"header_files": {"Authorization": "/p"}}, "use token_file"),
        ({"proxy": "proxy:3128"}, "write it like http://host:3128"),
        ({"proxy": "https://proxy:3128"}, "write it like http://host:3128"),
        ({"proxy": "http://me:x@proxy:3128"}, "no login inside the proxy"),
        ({"accept": [302]}, "<= 299"),
        ({"accept": []}, "length"),
        ({"connections": 17}, "<= 16"),
        ({"method": "GET"}, "GET"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_to_write(options, words):
    with pytest.raises((msgspec.ValidationError, ValueError)) as caught:
        sink(**options)
    assert words in str(caught.value)
    assert "secret@" not in str(caught.value)


def test_a_key_is_filled_in_for_single_records_only():
    assert "needs `format: raw`" in sink(url="https://h/{key}").problem_with("ndjson")
    assert sink(url="https://h/{key}").problem_with("raw") is None
    assert sink(url="https://h/{stream}").problem_with("ndjson") is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, None),
        ({"url": "http://127.0.0.1:80/in", "token_file": "/t"}, None),
        ({"url": "http://h/in"}, "anything on the way to h can answer in its place"),
        ({"url": "http://h/in", "echo": True}, None),
        ({"url": "http://h/in", "expect": "stored"}, None),
        ({"url": "http://h/in", "echo": True, "token_file": "/t"}, "what is in token_file travels in the open to h"),
        ({"url": "http://h/in", "header_files": {"X-Key": "/t"}}, "what is in header_files travels in the open"),
    ],
)
def test_what_may_not_be_meant_is_told(options, words):
    found = [str(mistake) for mistake in sink(**options).warnings()]
    assert len(found) == (words is not None)
    assert words is None or words in found[0]


def test_no_library_is_loaded_for_it_before_it_is_used():
    import subprocess
    import sys

    code = "import sys, sinks.http; sys.exit(bool({'h11', 'ssl', 'asyncio.sslproto'} & (sys.modules.keys() - BEFORE)))"
    code = f"import asyncio, sys; BEFORE = set(sys.modules); {code}"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
