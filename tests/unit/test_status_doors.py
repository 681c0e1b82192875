"""Who comes in: the control socket by its permissions, everybody else by name, site and token."""

import asyncio
import http.client
import logging
import os
import re
import socket
import stat
import time
from urllib.parse import urlencode

import pytest
from status_rig import ControlConnection, FakeSource, Server, wait_for

from gateway.config import StatusOptions
from gateway.errors import LogError
from gateway.quantity import Secret
from gateway.status import Status, events, login, web
from gateway.web import address_of
from gateway.web import token as token_

TOKEN = "q7Vd8sXk2LmN4pRt"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def token_file(tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    return file


@pytest.fixture
def guarded(token_file):
    server = Server(listen="0.0.0.0:0", token_file=Secret(str(token_file)), names=("pi.lan",))
    yield server
    server.stop()


@pytest.fixture
def both(tmp_path):
    server = Server(folder=str(tmp_path))
    yield server, tmp_path
    server.stop()


def by_control(folder, path, method="GET", headers=None, body=None):
    return Server.ask(ControlConnection(folder), path, method, headers, body)


# -- the control socket ------------------------------------------------------------------------------------------------


def test_the_control_socket_answers_what_the_address_does_whatever_the_host_says(both):
    _, folder = both
    for host in ("localhost", "anything.example", ""):
        assert by_control(folder, "/api/v1/status", headers={"Host": host}).status == 200


def test_a_reload_goes_by_the_control_socket_only(both):
    server, folder = both
    answer = by_control(folder, "/api/v1/reload", "POST")
    assert (answer.status, answer.text) == (200, b'{"ok":true,"changes":[]}')
    server.source.reloaded = {"ok": False, "problems": [{"file": "a.yaml", "line": 1, "column": 2, "path": "x", "message": "no"}]}  # fmt: skip
    assert by_control(folder, "/api/v1/reload", "POST").status == 422
    assert by_control(folder, "/api/v1/reload").status == 405
    assert by_control(folder, "/api/v1/status", "POST").status == 405
    answer = server.get("/api/v1/reload", "POST")
    assert (answer.status, b"control socket" in answer.text) == (405, True)


def test_a_reload_takes_the_time_it_takes(both, monkeypatch):
    monkeypatch.setattr(web, "HEADER_S", 0.1)
    monkeypatch.setattr(web, "ANSWER_S", 0.2)
    server, folder = both
    by_control(folder, "/healthz")

    async def slow():
        await asyncio.sleep(1.0)
        return {"ok": True, "changes": ["x"]}

    server.source.reload = slow
    assert by_control(folder, "/api/v1/reload", "POST").text == b'{"ok":true,"changes":["x"]}'


@pytest.mark.parametrize("method,path", [("POST", "/api/v1/reload"), ("GET", "/api/v1/streams/boiler/records")])
def test_a_log_that_cannot_be_read_is_said_in_words(both, method, path):
    server, folder = both

    async def broken(*_):
        raise LogError("the disk does not answer")

    server.source.reload = server.source.records = broken
    answer = by_control(folder, path, method)
    assert (answer.status, b"the disk does not answer" in answer.text) == (503, True)


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_its_permissions_do_not_depend_on_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        server = Server(folder=str(tmp_path))
    finally:
        os.umask(before)
    found = os.stat(tmp_path / "control")
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, os.stat(tmp_path).st_gid)
    assert by_control(tmp_path, "/healthz").status == 200
    server.stop()


def test_it_belongs_to_the_group_of_its_folder(tmp_path):
    if os.geteuid():
        pytest.skip("only root may give a folder to any group")
    os.chown(tmp_path, -1, 12345)
    server = Server(folder=str(tmp_path))
    assert os.stat(tmp_path / "control").st_gid == 12345
    server.stop()


def test_one_that_was_left_behind_is_replaced_and_ours_is_taken_away_at_the_stop(tmp_path):
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "control"))
    left.close()
    (tmp_path / "control.new").write_text("from a start that was killed")
    server = Server(folder=str(tmp_path))
    assert by_control(tmp_path, "/healthz").status == 200
    server.stop()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_a_long_path_will_do(tmp_path):
    folder = tmp_path / ("x" * 120) / ("y" * 120)
    folder.mkdir(parents=True)
    server = Server(folder=str(folder))
    assert by_control(folder, "/healthz").status == 200
    server.stop()


def test_without_an_address_the_control_socket_alone_is_served(tmp_path):
    server = Server(folder=str(tmp_path), listen=None)
    assert by_control(tmp_path, "/api/v1/status").status == 200
    server.stop()


def test_where_there_can_be_no_socket_the_rest_is_served(tmp_path, caplog):
    server = Server(folder=str(tmp_path / "missing"))
    assert server.get("/healthz").status == 200
    assert "no control socket" in caplog.text
    server.stop()


def test_a_flood_on_the_address_leaves_the_control_socket_free(both):
    server, folder = both
    clients = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(100)]
    try:
        assert by_control(folder, "/api/v1/reload", "POST").status == 200
    finally:
        for client in clients:
            client.close()


# -- names and sites ---------------------------------------------------------------------------------------------------

HERE = socket.gethostname().lower()


@pytest.mark.parametrize(
    "host,open_one,local",
    [
        ("localhost", 200, 200), ("127.0.0.1:1", 200, 200), ("[::1]", 200, 200),
        ("192.168.7.9", 200, 421), ("192.168.7.9:8765", 200, 421), ("[fe80::1]:8765", 200, 421),
        (HERE, 200, 421), (f"{HERE.partition('.')[0]}.local:8765", 200, 421),
        ("pi.lan", 200, 421), ("PI.LAN:80", 200, 421), ("pi.lan.evil.example", 421, 421),
        ("evil.example", 421, 421), ("192.168.7.9.evil.example", 421, 421), ("1.2.3", 421, 421), ("[::1", 421, 421),
        ("0x7f000001", 421, 421), ("pi.lan@evil.example", 421, 421),
    ],
)  # fmt: skip
def test_names_that_are_answered(guarded, both, host, open_one, local):
    assert guarded.get("/api/v1/status", headers={"Host": host, **BEARER}).status == open_one
    assert both[0].get("/api/v1/status", headers={"Host": host}).status == local


@pytest.mark.parametrize(
    "origin,site,mode,method,code",
    [
        (None, None, None, "GET", 200), ("http://{host}", "same-origin", "cors", "GET", 200),
        ("https://{host}", None, None, "GET", 200), (None, "none", "navigate", "GET", 200),
        (None, "cross-site", "navigate", "GET", 200), (None, "cross-site", "no-cors", "GET", 403),
        ("http://evil.example", "cross-site", "cors", "GET", 403), ("null", None, None, "GET", 403),
        ("http://localhost:1", None, None, "GET", 403), ("http://evil.example", "cross-site", "navigate", "POST", 403),
        ("null", "cross-site", "navigate", "POST", 403), ("http://{host}", "same-origin", "navigate", "POST", 303),
        (None, "cross-site", "navigate", "POST", 403), (None, "same-site", "navigate", "POST", 403),
        (None, None, None, "POST", 303),
    ],
)  # fmt: skip
def test_sites_that_are_answered(guarded, origin, site, mode, method, code):
    host = f"127.0.0.1:{guarded.port}"
    headers = {"Origin": origin and origin.format(host=host), "Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
    headers = {name: value for name, value in headers.items() if value is not None}
    path, body = ("/login", urlencode({"token": TOKEN})) if method == "POST" else ("/api/v1/status", None)
    assert guarded.get(path, method, {**headers, **BEARER}, body).status == code


# -- the token ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/readyz", "/metrics", "/api/v1/status", "/api/v1/events", "/api/v1/dead", "/static/app.js", "/nothing",
             "/login/", "//login", "/login/../api/v1/status", "/healthz/", "/api/v1/streams/boiler/records", "/logout"],
)  # fmt: skip
def test_without_the_token_nothing_is_told(guarded, path):
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Cookie": "tidegate_g=x"},
    ):
        answer = guarded.get(path, headers=headers)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert b"/login" in answer.text
        assert b"boiler" not in answer.text


def test_it_lives_is_told_to_everybody(guarded):
    assert guarded.get("/healthz").text == b"ok\n"


def test_the_token_opens_everything_also_on_this_machine(guarded):
    for path in ("/readyz", "/metrics", "/api/v1/status", "/api/v1/streams/boiler/records"):
        assert guarded.get(path, headers=BEARER).status == 200
        assert guarded.get(path, headers={"Authorization": f"bearer  {TOKEN} "}).status == 200


def test_a_browser_is_led_to_the_login_and_from_there_to_the_page(guarded):
    answer = guarded.get("/", headers={"Accept": "text/html"})
    assert (answer.status, answer.headers["location"]) == (303, "/login")
    form = guarded.get("/login")
    assert form.status == 200
    assert b'name="token"' in form.text
    assert b"<script" not in form.text
    assert "form-action 'self'" in form.headers["content-security-policy"]
    answer = guarded.get("/login", "POST", body=urlencode({"token": TOKEN}))
    assert (answer.status, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert re.fullmatch(r"tidegate_g=[\w-]{43}; HttpOnly; Max-Age=43200; Path=/; SameSite=strict", cookie)
    session = {"Cookie": f"other=1; {cookie.partition(';')[0]}"}
    assert guarded.get("/api/v1/status", headers=session).status == 200
    with guarded.follow("/api/v1/events", **session) as found:
        assert next(found)[0] == "status"
    answer = guarded.get("/logout", "POST", headers=session)
    assert (answer.status, answer.headers["location"]) == (303, "/login")
    assert guarded.get("/api/v1/status", headers=session).status == 401


def enter(server, token=TOKEN):
    return server.get("/login", "POST", body=urlencode({"token": token}))


def ask_from(server, address, path="/api/v1/status", method="GET", headers=None, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10, source_address=(address, 0))
    return Server.ask(connection, path, method, headers, body)


def guess(server, address, way, token):
    if way == "form":
        return ask_from(server, address, "/login", "POST", body=urlencode({"token": token}))
    return ask_from(server, address, headers={"Authorization": f"Bearer {token}"})


@pytest.mark.parametrize("way", ["form", "header"])
def test_five_different_wrong_tokens_a_minute_and_then_none_is_looked_at_from_there(guarded, monkeypatch, way):
    for n in range(token_.TRIES):
        assert guess(guarded, "127.0.0.2", way, f"wrong {n}").status == 401
    for either in ("form", "header"):
        answer = guess(guarded, "127.0.0.2", either, TOKEN)
        assert (answer.status, b"oo many wrong tokens" in answer.text) == (429, True)
        assert 0 < int(answer.headers["retry-after"]) <= 61
    assert ask_from(guarded, "127.0.0.2").status == 401  # who shows nothing is asked for it
    for address in ("127.0.0.1", "127.0.0.3"):
        assert guess(guarded, address, "header", TOKEN).status == 200
        assert guess(guarded, address, "form", TOKEN).status == 303
    monkeypatch.setattr(token_, "TRIES_S", 0.0)
    assert guess(guarded, "127.0.0.2", way, TOKEN).status in (200, 303)


def test_who_has_shown_the_token_is_not_shut_out_by_others_at_his_address(guarded):
    session = {"Cookie": enter(guarded).headers["set-cookie"].partition(";")[0]}
    for n in range(3 * token_.TRIES):
        assert guess(guarded, "127.0.0.1", "header", f"wrong {n}").status == 401
    assert guarded.get("/api/v1/status", headers=BEARER).status == 200
    assert guarded.get("/api/v1/status", headers=session).status == 200
    assert enter(guarded).status == 303


def test_a_program_with_an_old_token_shuts_nobody_out(guarded):
    for _ in range(5 * token_.TRIES):
        assert guess(guarded, "127.0.0.2", "header", "the token of yesterday").status == 401
    assert guess(guarded, "127.0.0.2", "form", TOKEN).status == 303


def test_a_session_lasts_whatever_others_guess(guarded):
    session = {"Cookie": enter(guarded).headers["set-cookie"].partition(";")[0]}
    for n in range(token_.TRIES + 1):
        guess(guarded, "127.0.0.2", "header", f"wrong {n}")
    assert ask_from(guarded, "127.0.0.2", headers=session).status == 200


def test_tries_are_kept_of_so_many_addresses_only():
    tries = token_.Tries()
    for n in range(3 * token_.MOST_ADDRESSES):
        for token in range(2 * token_.TRIES):
            tries.wrong(str(n), b"%d" % token, 1.0)
        tries.right(f"friend {n}")
    assert len(tries._wrong) == len(tries._trusted) == token_.MOST_ADDRESSES
    assert max(map(len, tries._wrong.values())) == token_.TRIES
    last = str(3 * token_.MOST_ADDRESSES - 1)
    assert (tries.wait(last, 2.0), tries.wait(last, 61.0), tries.wait("0", 2.0)) == (60, 0, 0)


@pytest.mark.parametrize(
    "host,one",
    [
        ("192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3::9", "2001:db8:1:2::/64"), ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"), ("::ffff:192.0.2.7", "192.0.2.7"), ("", ""),
    ],
)  # fmt: skip
def test_whose_tries_are_counted_together(host, one):
    assert address_of((host, 1)) == one
    assert address_of(None) == ""


def test_sessions_are_few_and_end(guarded, monkeypatch):
    cookies = [enter(guarded).headers["set-cookie"].partition(";")[0] for _ in range(login.SESSIONS + 1)]
    assert guarded.get("/api/v1/status", headers={"Cookie": cookies[0]}).status == 401  # the oldest made room
    assert guarded.get("/api/v1/status", headers={"Cookie": cookies[-1]}).status == 200
    monkeypatch.setattr(login, "SESSION_S", -1.0)
    late = enter(guarded).headers["set-cookie"].partition(";")[0]
    assert guarded.get("/api/v1/status", headers={"Cookie": late}).status == 401


def test_another_token_in_the_file_counts_at_once_and_ends_every_session(guarded, token_file):
    session = {"Cookie": enter(guarded).headers["set-cookie"].partition(";")[0]}
    assert guarded.get("/api/v1/status", headers=session).status == 200
    token_file.write_text("another-token-of-enough-length")
    assert guarded.get("/api/v1/status", headers=session).status == 401
    assert guarded.get("/api/v1/status", headers=BEARER).status == 401
    assert (
        guarded.get("/api/v1/status", headers={"Authorization": "Bearer another-token-of-enough-length"}).status == 200
    )


def test_another_token_ends_those_who_follow(guarded, token_file, monkeypatch):
    monkeypatch.setattr(events, "STATUS_S", 0.1)
    said = guarded.source.status
    ticks = iter(range(10**6))
    guarded.source.status = lambda: {**said(), "changing": next(ticks)}
    with guarded.follow("/api/v1/events", **BEARER) as found:
        assert next(found)[0] == "status"
        token_file.write_text("another-token-of-enough-length")
        assert len(list(found)) < 3


def test_a_token_file_that_is_gone_or_too_short_lets_nobody_in(guarded, token_file, caplog):
    token_file.write_text("short")
    for token in ("short", "", TOKEN):
        assert guarded.get("/api/v1/status", headers={"Authorization": f"Bearer {token}"}).status == 401
    token_file.unlink()
    for _ in range(3):
        assert guarded.get("/api/v1/status", headers=BEARER).status == 401
        assert enter(guarded, "").status == 401
    assert caplog.text.count("cannot be read") == 1
    token_file.write_text(TOKEN)
    assert guarded.get("/api/v1/status", headers=BEARER).status == 200


@pytest.mark.parametrize(
    "body", ["", "token", "token=", "x=" + "a" * 5000, "&" * 4000, "token=%ff%00", "{}", "token=a&token=" + TOKEN]
)
def test_a_form_that_is_none_is_refused(guarded, body, monkeypatch):
    monkeypatch.setattr(token_, "TRIES_S", 0.0)
    assert guarded.get("/login", "POST", body=body).status in (400, 401, 413)
    assert enter(guarded).status == 303


def test_the_token_and_the_sessions_are_nowhere_in_the_log(guarded, caplog):
    caplog.set_level(logging.DEBUG)
    cookie = enter(guarded).headers["set-cookie"].partition(";")[0]
    enter(guarded, f"{TOKEN}x")
    guarded.get("/api/v1/status", headers={"Cookie": cookie})
    guarded.get("/api/v1/status", headers=BEARER)
    guarded.source.broken = True
    assert guarded.get("/api/v1/status", headers=BEARER).status == 500
    assert TOKEN not in caplog.text
    assert cookie.partition("=")[2] not in caplog.text


def test_the_control_socket_asks_for_no_token(tmp_path, token_file):
    server = Server(folder=str(tmp_path), token_file=Secret(str(token_file)))
    assert server.get("/api/v1/status").status == 401  # also on this machine: any user of it can connect
    assert by_control(tmp_path, "/api/v1/status").status == 200
    server.stop()


def test_without_a_token_there_is_no_login(both):
    server, _ = both
    assert server.get("/login").status == 404
    assert server.get("/login", "POST", body="token=x").status == 405


def test_the_log_says_how_to_come_to_the_page(tmp_path, caplog, token_file):
    caplog.set_level(logging.INFO)
    server = Server()
    assert f"ssh -L {server.port}:127.0.0.1:{server.port} USER@" in caplog.text
    server.stop()
    caplog.clear()
    server = Server(listen="0.0.0.0:0", token_file=Secret(str(token_file)))
    assert "travels readable" in caplog.text
    assert "0.0.0.0" not in caplog.text  # nobody can open that
    server.stop()


# -- slow and many -----------------------------------------------------------------------------------------------------


def test_a_form_that_comes_byte_by_byte_is_given_up(guarded, monkeypatch):
    from gateway.status import web

    monkeypatch.setattr(web, "HEADER_S", 0.3)
    monkeypatch.setattr(web, "ANSWER_S", 0.8)
    with socket.create_connection(("127.0.0.1", guarded.port), 10) as client:
        client.sendall(b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000\r\n\r\n")
        started = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - started < 20:
                client.sendall(b"t")
                time.sleep(0.05)
    assert guarded.get("/healthz").status == 200


def test_a_hundred_connections_at_once_do_no_harm(guarded):
    clients = [socket.create_connection(("127.0.0.1", guarded.port), 10) for _ in range(100)]
    for client in clients:
        client.close()
    wait_for(lambda: guarded.get("/healthz").status == 200)


def test_a_status_that_is_not_configured_is_not_there(tmp_path):
    status = Status(None, FakeSource(), folder=None)
    status.bind()
    assert status._doors == []
    assert StatusOptions().listen == "127.0.0.1:8765"
