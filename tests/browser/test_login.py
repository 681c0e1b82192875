"""A person logs in with a browser: the form, the cookie, and back to the page."""

import pytest
from playwright.sync_api import sync_playwright
from status_rig import Server

from gateway.quantity import Secret
from gateway.status import api

TOKEN = "q7Vd8sXk2LmN4pRt"


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def server(tmp_path, monkeypatch):
    folder = tmp_path / "static"
    folder.mkdir()
    (folder / "index.html").write_text(
        '<!doctype html><link rel="icon" href="data:,"><title>page</title><p id="said">waiting</p><script type="module" src="/static/app.js"></script>'
        '<form method="post" action="/logout"><button>Log out</button></form>'
    )
    (folder / "app.js").write_text(
        "new EventSource('/api/v1/events').addEventListener('status', event => {"
        "document.getElementById('said').textContent = JSON.parse(event.data).sentence })"
    )
    monkeypatch.setattr(api, "STATIC", folder)
    (tmp_path / "token").write_text(TOKEN)
    server = Server(token_file=Secret(str(tmp_path / "token")))
    yield server
    server.stop()


def test_the_login_leads_to_the_page_and_the_logout_back(browser, server):
    page = browser.new_page()
    complaints = []
    page.on("console", lambda message: complaints.append(message.text) if "status of 401" not in message.text else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"http://localhost:{server.port}/")
    assert page.url.endswith("/login")
    page.get_by_label("Token").fill("not the token at all")
    page.get_by_role("button").click()
    page.get_by_text("This is not the token.").wait_for()
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button").click()
    page.get_by_text("all 2 parts are up").wait_for()
    assert page.title() == "page"
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    page.get_by_role("button", name="Log out").click()
    page.get_by_label("Token").wait_for()
    page.goto(f"http://localhost:{server.port}/")
    assert page.url.endswith("/login")
    assert complaints == []
    page.close()
