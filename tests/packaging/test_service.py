"""What an installation puts on a machine: the unit, its sandbox, the user, the rules, the broker's drop-in, the scripts."""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import mqtt5
import pytest

from gateway.cli import EXIT_CONFIG
from gateway.config.model import LogSettings
from gateway.log.files import BOOT_VARIABLE
from gateway.testing import Client, Mosquitto, publish

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd" / "tidegate.service"
INSTALL = ROOT / "raspberry-pi" / "install.sh"


def directives(file: Path = UNIT) -> dict[str, dict[str, list[str]]]:
    """Section -> directive -> its values, in order."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in file.read_text().splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = found.setdefault(match[1], {})
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            section.setdefault(name, []).append(value)
    return found


@pytest.fixture
def checked_unit(tmp_path):
    """The unit, with a program in it that is there on this machine."""
    text, many = re.subn(r"/opt/tidegate/current/bin/tidegate", sys.executable, UNIT.read_text())
    assert many == 2
    file = tmp_path / "tidegate.service"
    file.write_text(text)
    return file


def test_systemd_finds_nothing_wrong_with_the_unit(checked_unit):
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", checked_unit], capture_output=True, text=True, timeout=60
    )
    assert [line for line in done.stderr.splitlines() if "tidegate.service" in line] == []
    assert done.returncode == 0, done.stderr


def exposure(unit_file):
    """What `systemd-analyze security` says of a unit and its drop-ins: 0.0 is best, 10.0 worst."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", unit_file],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return float(re.search(r"exposure level for tidegate.service: ([0-9.]+)", done.stdout)[1])


def test_the_units_exposure_stays_low(checked_unit):
    assert exposure(checked_unit) <= 1.6


def test_the_drop_in_for_other_time_services_lets_the_kernel_be_asked_and_costs_little(checked_unit):
    alone = exposure(checked_unit)
    drop_ins = checked_unit.parent / "tidegate.service.d"
    drop_ins.mkdir()
    (drop_ins / "10-clock.conf").write_text((ROOT / "systemd" / "tidegate-clock.conf").read_text())
    assert alone < exposure(checked_unit) <= alone + 0.6


def test_the_service_collects_without_a_network_and_never_gives_up_but_on_its_configuration():
    found = directives()
    assert "online" not in " ".join(found["Unit"]["After"] + found["Unit"]["Wants"])
    assert "time-sync" not in " ".join(found["Unit"]["After"])
    service = found["Service"]
    assert (found["Unit"]["StartLimitIntervalSec"], service["Restart"]) == (["0"], ["always"])
    assert service["RestartPreventExitStatus"] == [str(EXIT_CONFIG)]
    assert (service["Type"], service["WatchdogSec"]) == (["notify"], ["60"])


def test_the_log_is_where_the_configuration_has_it_and_open_to_the_group_alone():
    service = directives()["Service"]
    assert f"/var/lib/{service['StateDirectory'][0]}" == LogSettings().path
    assert (service["StateDirectoryMode"], service["UMask"], service["Group"]) == (["0750"], ["0027"], ["tidegate"])


def test_the_sandbox_hides_which_boot_it_is_and_so_systemd_tells():
    service = directives()["Service"]
    assert service["ProcSubset"] == ["pid"]
    assert f"{BOOT_VARIABLE}=%b" in service["Environment"]


def test_nobody_sets_the_clock_and_the_drop_in_takes_back_just_what_keeps_it_from_being_asked_for():
    service = directives()["Service"]
    assert service["ProtectClock"] == ["yes"]
    assert service["CapabilityBoundingSet"] == [""]
    assert not any("adjtime" in value for value in service["SystemCallFilter"])
    assert directives(ROOT / "systemd" / "tidegate-clock.conf")["Service"] == {
        "ProtectClock": ["no"],
        "SystemCallFilter": ["adjtimex clock_adjtime clock_adjtime64"],
    }


def test_installing_fills_the_folders_that_the_unit_names():
    text = INSTALL.read_text()
    names = dict(re.findall(r"^([A-Z_]+)=(/\S+)$", text, re.M))
    assert directives()["Service"]["ExecStart"] == [f"{names['HOME_DIR']}/current/bin/tidegate run"]
    assert directives()["Service"]["ExecReload"] == [f"{names['HOME_DIR']}/current/bin/tidegate reload"]
    assert names["DATA"] == LogSettings().path
    for name in re.findall(r'"\$TREE/([^"*]+)"', text):
        assert (ROOT / name).exists(), name


def test_the_rules_for_devices_add_links_and_nothing_else():
    lines = [
        line for line in (ROOT / "systemd" / "70-tidegate-serial.rules").read_text().splitlines() if line[:1] not in "#"
    ]
    settings = re.findall(r'([A-Z{}_]+)\s*(?:\+=|:=|(?<![=!])=(?!=))\s*"', "\n".join(lines))
    assert set(settings) == {"GOTO", "LABEL", "SYMLINK"}
    assert re.findall(r'SYMLINK\+="([^"]*)"', "\n".join(lines)) == ["tidegate/usb-%b-if$env{ID_USB_INTERFACE_NUM}"]


@pytest.mark.parametrize(
    "script", sorted([*ROOT.glob("raspberry-pi/*.sh"), *ROOT.glob("tools/*.sh")]), ids=lambda path: path.name
)
def test_scripts_are_bash_that_stops_at_the_first_failure(script):
    subprocess.run(["bash", "-n", script], check=True, timeout=10)
    assert script.name == "debian.sh" or "set -euo pipefail" in script.read_text()


@pytest.mark.parametrize("script", ["install.sh", "wheels.sh"])
def test_scripts_say_how_they_are_used(script):
    done = subprocess.run(
        ["bash", ROOT / "raspberry-pi" / script, "--help"], capture_output=True, text=True, timeout=10
    )
    assert "usage: " in done.stdout
    assert "set -e" not in done.stdout


def test_an_option_that_is_not_there_changes_nothing():
    done = subprocess.run(["bash", INSTALL, "--purgee"], capture_output=True, text=True, timeout=10)
    assert (done.returncode, done.stderr) == (1, "install.sh: there is no --purgee; try --help\n")


def test_what_builds_the_package_has_the_versions_and_hashes_of_the_lock_file():
    def blocks(name):
        text = re.sub(r"\n    #.*", "", (ROOT / "requirements" / name).read_text())
        return {
            block.split("==")[0]: set(block.replace("\\", "").split())
            for block in re.split(r"\n(?=[a-z])", text)
            if "==" in block
        }

    building, all_ = blocks("build.txt"), blocks("dev.txt")
    assert "hatchling" in building
    assert building == {name: all_[name] for name in building}


def test_the_source_archive_has_all_that_installing_needs(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path], cwd=ROOT, check=True, timeout=120
    )
    (archive,) = tmp_path.glob("*.tar.gz")
    names = {name.split("/", 1)[1] for name in tarfile.open(archive).getnames()}
    assert {
        "raspberry-pi/install.sh", "raspberry-pi/wheels.sh", "raspberry-pi/tidegate.yaml", "systemd/tidegate.service",
        "systemd/tidegate-clock.conf",
        "requirements/run.txt", "requirements/build.txt", "tools/debian.sh", "docs/raspberry-pi.md", "gateway/daemon.py",
    } <= names  # fmt: skip
    assert not [name for name in names if name.startswith(("tests/", ".venv"))]


@pytest.mark.integration
def test_with_the_drop_in_the_broker_keeps_more_than_its_usual_1000_messages_for_who_is_away(tmp_path):
    parts = tmp_path / "conf.d"
    parts.mkdir()
    (parts / "tidegate.conf").write_text((ROOT / "raspberry-pi" / "mosquitto-tidegate.conf").read_text())
    usual = f"max_queued_messages 1000\nmax_inflight_messages 20\ninclude_dir {parts}"
    with Mosquitto(tmp_path / "broker", extra=usual) as broker:
        with Client(broker.port, "gateway", clean=False) as gateway:
            gateway.send(mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("t", max_qos=mqtt5.QoS.AT_LEAST_ONCE)]).write())
            gateway.packet()
        sent = [b"%d" % n for n in range(3000)]
        publish(broker.port, [("t", value) for value in sent])
        with Client(broker.port, "gateway", clean=False) as gateway:
            got = []
            for _ in sent:
                packet = gateway.packet()
                got.append(packet.payload)
                gateway.send(mqtt5.PubAckPacket(packet.packet_id).write())
        assert got == sent
