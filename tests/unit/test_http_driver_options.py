"""The http driver's options: what is refused, warned of, and what only one entry can have."""

import pytest

from drivers.http import Options, Path
from gateway.quantity import LocalPath, Secret


@pytest.fixture
def token(tmp_path):
    (tmp_path / "token").write_text("q7Vd8sXk2LmN4pRt\n")
    return Secret(str(tmp_path / "token"))


@pytest.mark.parametrize(
    "given,said",
    [
        ({}, "'/' has no stream"),
        ({"stream": "s", "listen": "8088"}, "is no address"),
        ({"stream": "s", "listen": "127.0.0.1:0"}, "no port that a client could know"),
        ({"stream": "s", "listen": "0.0.0.0:8088"}, "needs a token"),
        ({"stream": "s", "listen": "pi.lan:8088"}, "needs a token"),
        ({"stream": "s", "paths": ("readings",)}, "'readings' is no path"),
        ({"stream": "s", "paths": ("/{key}/x",)}, "is no path"),
        ({"stream": "s", "paths": ("/x{key}",)}, "is no path"),
        ({"stream": "s", "paths": ("/{stream}",)}, "is no path"),
        ({"stream": "s", "paths": ("/a?b=c",)}, "is no path"),
        ({"stream": "s", "paths": ("/a b",)}, "is no path"),
        ({"stream": "s", "paths": ("/%41",)}, "is no path"),
        ({"stream": "s", "paths": ("/a", Path(path="/a", stream="t"))}, "'/a' stands here twice"),
        ({"stream": "s", "key_field": "a..b"}, "'a..b' is no field"),
        ({"stream": "s", "origins": ("panel.example",)}, "'panel.example' is no site"),
        ({"stream": "s", "origins": ("https://panel.example/",)}, "without a path"),
        ({"stream": "s", "cert_file": LocalPath("c")}, "belong together"),
        ({"stream": "s", "client_ca_file": LocalPath("c")}, "need a cert_file"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_what_to_write(given, said):
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        Options(**given)


def test_a_token_that_is_too_short_is_told(tmp_path):
    (tmp_path / "token").write_text("short")
    with pytest.raises(ValueError, match="5 characters"):
        Options(stream="s", token_file=Secret(str(tmp_path / "token")))


@pytest.fixture
def papers(tmp_path):
    """Files that look as they should."""
    for name, kind in (("cert_file", "CERTIFICATE"), ("key_file", "PRIVATE KEY"), ("client_ca_file", "CERTIFICATE")):
        (tmp_path / name).write_text(f"-----BEGIN {kind}-----\n")
    return {name: LocalPath(str(tmp_path / name)) for name in ("cert_file", "key_file", "client_ca_file")}


def test_papers_that_are_none_are_warned_of_at_their_options(papers, tmp_path):
    (tmp_path / "cert_file").write_bytes(b"\x30\x82")
    missing = {**papers, "client_ca_file": LocalPath(str(tmp_path / "nowhere"))}
    found = Options(stream="s", **missing).warnings()
    assert [one.path for one in found] == [("cert_file",), ("client_ca_file",)]
    assert found[0].message.startswith(f"{tmp_path}/cert_file holds no certificate in PEM form")
    assert "correct the path" in found[1].message


def test_a_client_certificate_is_as_good_as_a_token_for_other_machines(papers):
    assert Options(stream="s", listen="0.0.0.0:8088", **papers).warnings() == []


def test_streams_and_routes_come_from_the_paths():
    options = Options(stream="s", paths=("/", "/r/{key}", Path(path="/d", stream="doors"), Path(path="/{key}")))
    assert options.streams() == ["s", "doors"]
    assert options.routes() == [("/", False, "s"), ("/r/", True, "s"), ("/d", False, "doors"), ("/", True, "s")]


def test_a_token_in_the_open_is_warned_of_where_it_travels(token, papers):
    assert Options(stream="s", token_file=token).warnings() == []
    found = Options(stream="s", listen="0.0.0.0:8088", token_file=token).warnings()
    assert [(one.path, "in the open" in one.message) for one in found] == [(("token_file",), True)]
    del papers["client_ca_file"]
    assert Options(stream="s", listen="0.0.0.0:8088", token_file=token, **papers).warnings() == []


def test_it_says_where_it_listens_for_that_is_for_one():
    assert Options(stream="s", listen="[::1]:9").listens() == {"listen": "[::1]:9"}
