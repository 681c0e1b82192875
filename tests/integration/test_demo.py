"""The demo, as a colleague sees it: the story, an honest count, and a gateway to look at until ctrl-c."""

import http.client
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration


@pytest.mark.timeout(120)
def test_the_demo_tells_its_story_counts_right_and_stays_until_ctrl_c():
    command = [sys.executable, "-u", "-m", "gateway", "demo", "--seconds", "10", "--keep"]
    folder = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as demo:
        try:
            told = ""
            while "tidegate top" not in told:
                line = demo.stdout.readline()
                assert line, told
                told += line
            address = re.search(r"open http://(127\.0\.0\.1:\d+)/ in a browser", told)[1]
            connection = http.client.HTTPConnection(address, timeout=10)
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200
        finally:
            os.killpg(demo.pid, signal.SIGINT)  # as a terminal does it: to everybody
            rest, _ = demo.communicate(timeout=60)
            if found := re.search(r"everything is in (\S+)", rest):
                folder = found[1]
                shutil.rmtree(folder)
    assert demo.returncode == 0
    assert folder.startswith("/")
    for what in ("the link to the cloud is cut", "kill -9", "the link is back", "ms after it was raised"):
        assert what in told
    assert int(re.search(r"after the link was back, ahead of ([\d,]+) older", told)[1].replace(",", "")) > 0
    assert re.search(r"made by the sensors +4,000\n +delivered to the cloud +4,000 ", told)
    assert re.search(r"lost +0\n +duplicated +0 ", told)
    assert "raised, cleared, raised; each once" in told
    assert "nothing lost, nothing twice" in told
