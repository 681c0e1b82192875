"""`tidegate dead` against a real status server: why, how often, and the very bytes."""

import json

import pytest
from click.testing import CliRunner
from status_rig import Server

from gateway.cli import dead
from gateway.record import Record, dead_letter

NOW = 1_790_000_000 * 10**9
PAYLOADS = [b'{"v" :  "broken"}', b"\xff\x00junk\x1b[31m", b"plain [red]text", b"[1,2]"]


@pytest.fixture(scope="module")
def gateway():
    server = Server()
    letters = [
        Record(i, NOW + i, "k", dead_letter("pipeline:hot", "decode", f"v is {i}", "boiler", Record(40 + i, NOW, "a\x1bb", p)))
        for i, p in enumerate(PAYLOADS)
    ]  # fmt: skip
    server.source.letters = letters
    read = server.source.records

    async def records(stream, first, limit, size):
        found = [letter for letter in letters if letter.offset >= first][:limit]
        return (found, first + len(found)) if stream == "_dead" else await read(stream, first, limit, size)

    server.source.records = records
    yield server
    server.stop()


def run(gateway, *args):
    return CliRunner().invoke(dead.command, [*args, "--url", f"127.0.0.1:{gateway.port}"])


def test_the_list_has_reasons_with_counts_and_the_newest_first(gateway):
    result = run(gateway)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == "4 dead letters kept, 4 came since the start"
    reasons = next(line for line in lines if line.startswith("    4  "))
    assert reasons.endswith("pipeline:hot  decode: v is 3")
    listed = [line.split()[0] for line in lines if "boiler 4" in line]
    assert listed == ["3", "2", "1", "0"]
    assert lines[-1] == "all of one: tidegate dead show 3"
    assert "\x1b" not in result.output
    assert len([line for line in run(gateway, "--limit", "2").output.splitlines() if "boiler 4" in line]) == 2


def test_one_is_shown_with_the_bytes_that_came(gateway):
    output = run(gateway, "show", "0").output
    assert run(gateway, "0").output == output
    assert "why   decode: v is 0\nby    pipeline:hot\n" in output
    assert "from  stream boiler, offset 40, of 20" in output
    assert "key   a\\x1bb\n" in output
    assert 'text  {"v" :  "broken"}\n' in output
    assert output.endswith("00000000  7b 22 76 22 20 3a 20 20  22 62 72 6f 6b 65 6e 22  {\"v\" :  \"broken\"\n00000010  7d" + " " * 46 + "  }\n")  # fmt: skip


def test_bytes_that_are_no_text_are_shown_as_such(gateway):
    output = run(gateway, "show", "1").output
    assert "text  \\xff\\x00junk\\x1b[31m\n" in output
    assert "ff 00 6a 75 6e 6b 1b 5b  33 31 6d" in output
    assert "..junk.[31m" in output
    assert "\x1b" not in output


def test_as_json_it_is_what_the_gateway_says(gateway):
    assert json.loads(run(gateway, "--json").output)["total"] == 4
    assert json.loads(run(gateway, "show", "3", "--json").output)["v"]["value"] == [1, 2]


def test_a_letter_that_is_not_there_and_a_question_that_is_none(gateway):
    result = run(gateway, "show", "99")
    assert (result.exit_code, "there is no dead letter at 99" in result.output) == (1, True)
    for wrong in (("show",), ("3", "4"), ("list", "3"), ("burn", "3")):
        assert run(gateway, *wrong).exit_code == 2


def test_none_at_all_is_said():
    server = Server()
    try:
        assert run(server).output == "no dead letters\n"
    finally:
        server.stop()
