"""How commands find and reach a gateway: the control socket, the address, the token, and what they say when none works."""

import grp
import http.server
import json
import os
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import figures
import pytest
from click.testing import CliRunner
from status_rig import Server

from gateway.cli import _client, _config, lag, main, status
from gateway.cli._client import Client
from gateway.status import web

TOKEN = "correct-horse-battery"

# Asked once before, so that everything is imported: nobody may not be allowed to read this Python.
AS_NOBODY = """
import os, sys
from gateway.cli import main, status
from gateway.cli._client import Client
Client.of(sys.argv[1]).get("status")
os.setgroups([])
os.setegid(65534)
os.seteuid(65534)
main(["status", "--config", sys.argv[1]])
"""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the status, to whom knows the token if there is one."""

    def do_GET(self):
        asked = self.headers.get("authorization")
        if self.server.code is None and self.server.token in (None, (asked or "").removeprefix("Bearer ")):
            self._answer(200, figures.status(gateway=self.server.name))
        else:
            self._answer(self.server.code or 401, {"error": "a token is needed"})

    def do_POST(self):
        time.sleep(self.server.slow)
        self._answer(200, {"ok": True, "changes": [self.path]})

    def _answer(self, code, told):
        body = json.dumps(told).encode()
        self.send_response(code)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self):
        return "somebody"

    def log_message(self, *_):
        pass


@contextmanager
def serving(name, path=None, token=None, code=None, slow=0.0):
    """A gateway's face on a Unix socket, or on a port; gives the port."""
    folder = os.getcwd()
    if path is None:
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    else:
        os.chdir(path.parent)  # the path may be longer than a socket's address can be
        server = socketserver.ThreadingUnixStreamServer(path.name, Handler)
        os.chdir(folder)
    server.daemon_threads = True
    server.name, server.token, server.code, server.slow = name, token, code, slow
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1] if path is None else 0
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def config(tmp_path):
    """Write a configuration whose log is the folder given."""

    def config(log, status):
        path = tmp_path / "tidegate.yaml"
        path.write_text(f"gateway: {{id: g, status: {status}}}\nlog: {{path: {log}}}\n")
        return str(path)

    return config


def told(path, *args):
    return CliRunner().invoke(status.command, ["--config", path, *args])


@pytest.mark.parametrize("name", ["log", "n" * 120], ids=["short", "longer than a socket's address"])
def test_the_control_socket_is_asked_first(tmp_path, config, name):
    folder = tmp_path / name
    folder.mkdir()
    with serving("by-socket", folder / "control"), serving("by-port") as port:
        assert told(config(name, f'"127.0.0.1:{port}"')).output.startswith("by-socket ")
        assert told(config(name, "null")).output.startswith("by-socket ")
        assert told(config(name, "null"), "--url", f"http://127.0.0.1:{port}").output.startswith("by-port ")


def test_a_socket_that_was_left_behind_leads_to_the_address(tmp_path, config):
    with serving("gone", tmp_path / "control"):
        pass
    with serving("by-port") as port:
        assert told(config(".", f'"127.0.0.1:{port}"')).output.startswith("by-port ")
    result = told(config(".", "null"))
    assert result.exit_code == 1
    assert "control (from" in result.output
    assert "Connection refused" in result.output
    assert "Start it: tidegate run -c " in result.output
    assert "systemctl" not in result.output


def test_a_configuration_in_the_current_folder_is_pointed_at_where_the_usual_one_is_not_there(tmp_path, monkeypatch):
    usual = str(tmp_path / "etc" / "tidegate.yaml")
    monkeypatch.setattr(_config, "USUAL_CONFIG", usual)
    monkeypatch.setattr(_client, "USUAL_CONFIG", usual)
    monkeypatch.chdir(tmp_path)
    hint = "There is a tidegate.yaml here: add `-c tidegate.yaml`, or `export TIDEGATE_CONFIG=$PWD/tidegate.yaml`."
    commands = ("check", "test", "run", "lag")
    for command in commands:
        assert hint not in CliRunner().invoke(main, [command, "-c", usual]).output
    (tmp_path / "tidegate.yaml").write_text("gateway: {id: g}\n")
    for command in commands:
        assert hint in CliRunner().invoke(main, [command, "-c", usual]).output
    assert hint not in CliRunner().invoke(main, ["check", "-c", "other.yaml"]).output


def test_only_the_control_socket_is_told_to_do_something(tmp_path, config):
    with serving("by-socket", tmp_path / "control"), serving("by-port") as port:
        path = config(".", f'"127.0.0.1:{port}"')
        assert Client.of(path).post("reload") == {"ok": True, "changes": ["/api/v1/reload"]}
        os.unlink(tmp_path / "control")
        with pytest.raises(Exception, match="there is no control socket: the gateway does not run"):
            Client.of(path).post("reload")


def test_what_is_to_be_done_may_take_longer_than_an_answer(tmp_path, config):
    with serving("by-socket", tmp_path / "control", slow=0.5):
        assert Client.of(config(".", "null"), timeout_s=0.2).post("reload")["ok"]


def test_what_was_not_done_in_time_may_still_be_done_and_that_is_said(tmp_path, config, monkeypatch):
    monkeypatch.setattr(_client, "DOING_S", 0.2)
    with serving("by-socket", tmp_path / "control", slow=1.0):
        with pytest.raises(Exception, match="may still do it. `tidegate status` says") as caught:
            Client.of(config(".", "null"), timeout_s=0.2).post("reload")
    assert "nothing answers" not in str(caught.value)


def test_the_token_comes_from_the_configuration_or_the_option(tmp_path, config):
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "other").write_text("something else entirely\n")
    with serving("by-port", token=TOKEN) as port:
        listen = f'{{listen: "127.0.0.1:{port}", token_file: %s}}'
        assert told(config("log", listen % "token")).output.startswith("by-port ")
        assert told(config("log", listen % "other"), "--token-file", str(tmp_path / "token")).exit_code == 1
        wrong = told(config("log", listen % "other"))
        assert (wrong.exit_code, "the token is not the one of 127.0.0.1" in wrong.output) == (1, True)
        none = told(config("log", listen % "missing"))
        assert (none.exit_code, "name the file that holds it with --token-file" in none.output) == (1, True)
        url = ["--url", f"http://127.0.0.1:{port}"]
        assert CliRunner().invoke(lag.command, url).exit_code == 1
        assert CliRunner().invoke(lag.command, [*url, "--token-file", str(tmp_path / "token")]).exit_code == 0
        missing = CliRunner().invoke(lag.command, [*url, "--token-file", str(tmp_path / "missing")])
        assert (missing.exit_code, "No such file" in missing.output) == (2, True)


def test_too_many_connections_say_what_to_close():
    server = Server()
    taken = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(web.CONNECTIONS + 1)]
    try:
        result = CliRunner().invoke(lag.command, ["--url", f"127.0.0.1:{server.port}"])
    finally:
        for each in taken:
            each.close()
        server.stop()
    assert result.exit_code == 1
    assert "close a page or a `tidegate top`" in result.output


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to be")
@pytest.mark.parametrize("barrier", ["folder", "socket"])
def test_who_may_not_is_told_the_group_and_the_command(barrier):
    group = next(one for one in grp.getgrall() if one.gr_gid not in (0, 65534))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "log").mkdir()
        (folder / "tidegate.yaml").write_text("gateway: {id: g, status: null}\nlog: {path: log}\n")
        with serving("by-socket", folder / "log" / "control"):
            guarded = folder / "log" if barrier == "folder" else folder / "log" / "control"
            os.chown(guarded, 0, group.gr_gid)
            guarded.chmod(0o750 if barrier == "folder" else 0o660)
            result = subprocess.run(
                [sys.executable, "-c", AS_NOBODY, folder / "tidegate.yaml"], capture_output=True, text=True
            )
    assert result.returncode == 1
    assert f"{guarded} is for the group {group.gr_name}" in result.stderr
    assert f"sudo usermod -aG {group.gr_name} $USER, then log in again" in result.stderr
