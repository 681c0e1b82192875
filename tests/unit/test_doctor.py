"""The doctor on prepared machines: each trouble is seen, named, and comes with something to try."""

import json
import os
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner
from process import GatewayProcess

from gateway.cli import main
from gateway.config import LogSettings, load
from gateway.doctor import Machine, disk, examine, host, house
from gateway.log import SystemFiles
from gateway.log.identity import bind
from gateway.quantity import LocalPath, Size

LOG = "/var/lib/tidegate"
CARD = "sys/devices/platform/soc/fe340000.mmc/mmc_host/mmc0/mmc0:aaaa/block/mmcblk0"
MIB = 1 << 20


class Prepared:
    """A machine made of files."""

    def __init__(self, root):
        self.root = root
        self.clock_kept = True
        self.machine = Machine(str(root), lambda: self.clock_kept)

    def put(self, path, text=""):
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def mount(self, kind="ext4", options="rw,noatime", device="179:2", source="/dev/mmcblk0p2", point="/"):
        self.put(
            "/proc/self/mountinfo",
            "21 1 0:20 / /proc rw - proc proc rw\n"
            f"22 1 {device} / {point} {options} shared:1 - {kind} {source} {options}\n",
        )

    def card(self, **about):
        """An SD card with a partition, where the kernel shows it."""
        self.put(f"{CARD}/mmcblk0p2/partition", "2")
        self.put(f"{CARD}/queue/write_cache", "write through\n")
        for name, text in about.items():
            self.put(f"{CARD}/device/{name}", f"{text}\n")
        link = self.root / "sys/dev/block/179:2"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"../../../{CARD}/mmcblk0p2")
        self.mount()

    def log(self):
        (self.root / LOG.lstrip("/")).mkdir(parents=True, exist_ok=True)
        (self.root / LOG.lstrip("/")).chmod(0o750)

    def disk(self, **settings):
        return {one.about: one for one in disk.examine(self.machine, LogSettings(path=LocalPath(LOG), **settings))}

    def host(self):
        return {one.about: one for one in host.examine(self.machine)}


@pytest.fixture
def pi(tmp_path):
    return Prepared(tmp_path / "root")


@pytest.mark.parametrize(
    "kind, options, level, word",
    [
        ("ext4", "rw,noatime", "ok", "ext4"),
        ("ext4", "rw,commit=600", "ok", "does not matter"),
        ("nfs4", "rw", "trouble", "network"),
        ("fuse.sshfs", "rw", "trouble", "network"),
        ("tmpfs", "rw", "trouble", "memory"),
        ("overlay", "rw", "trouble", "container"),
        ("ext4", "ro", "trouble", "read-only"),
        ("ext4", "rw,barrier=0", "trouble", "sync does not reach"),
        ("vfat", "rw", "attention", "no journal"),
        ("ext4", "rw,sync", "attention", "sync"),
    ],
)
def test_the_file_system_under_the_log_is_judged(pi, kind, options, level, word):
    pi.mount(kind, options)
    found = pi.disk()["file system"]
    assert found.level == level
    assert word in found.seen
    assert bool(found.advice) == (level != "ok")


def test_it_is_the_mount_of_the_log_that_counts_not_that_of_the_machine(pi):
    pi.put(
        "/proc/self/mountinfo",
        "1 0 179:2 / / rw - ext4 /dev/root rw\n"
        "2 1 0:50 / /var/lib rw - overlay overlay rw\n"
        "3 2 8:1 / /var/lib/tidegate rw - ext4 /dev/sda1 rw\n"
        "4 2 0:51 / /var/lib/tide rw - tmpfs tmpfs rw\n",
    )
    pi.log()
    assert "/dev/sda1" in pi.disk()["file system"].seen


@pytest.mark.parametrize(
    "about, level, word",
    [
        ({"type": "SD", "name": "SC32G", "date": "03/2021"}, "ok", "SD SC32G, made 03/2021; it does not tell"),
        ({"type": "MMC", "name": "BJTD4R", "life_time": "0x01 0x02", "pre_eol_info": "0x01"}, "ok", "up to 20 %"),
        ({"type": "MMC", "name": "B", "life_time": "0x09 0x02", "pre_eol_info": "0x01"}, "attention", "up to 90 %"),
        ({"type": "MMC", "name": "B", "life_time": "0x02 0x02", "pre_eol_info": "0x02"}, "attention", "80 %"),
        ({"type": "MMC", "name": "B", "life_time": "0x0b 0x02", "pre_eol_info": "0x01"}, "trouble", "used up"),
        ({"type": "MMC", "name": "B", "life_time": "0x01 0x01", "pre_eol_info": "0x03"}, "trouble", "urgent"),
        ({"type": "SD", "name": "odd", "life_time": "what?"}, "ok", "does not tell"),
    ],
)
def test_a_card_tells_how_worn_it_is_where_it_can(pi, about, level, word):
    pi.card(**about)
    found = pi.disk()["card"]
    assert (found.level, word in found.seen) == (level, True), found


def test_the_cache_of_the_whole_disk_is_looked_up_from_its_partition(pi):
    pi.card()
    assert "says that it has none" in pi.disk()["write cache"].seen
    pi.put(f"{CARD}/queue/write_cache", "write back\n")
    assert "has it flushed" in pi.disk()["write cache"].seen


def test_a_stick_on_usb_that_does_not_tell_of_its_cache_is_never_flushed_and_that_is_said(pi):
    stick = "sys/devices/pci0/usb2/2-1/host0/target0/0:0:0:0/block/sda"
    pi.put(f"{stick}/queue/write_cache", "write through\n")
    pi.put("/sys/dev/block/x")
    (pi.root / "sys/dev/block/8:0").symlink_to(f"../../../{stick}")
    pi.mount(device="8:0", source="/dev/sda")
    found = pi.disk()["write cache"]
    assert found.level == "attention"
    assert "temporary write back" in found.advice


def test_a_log_that_may_outgrow_its_disk_is_seen_and_what_it_has_already_counts(pi):
    pi.mount()
    pi.log()
    free = os.statvfs(pi.root)
    free = free.f_bavail * free.f_frsize
    assert pi.disk(size=Size(32 * MIB))["room"].level == "ok"
    assert pi.disk(size=Size(2 * free))["room"].level == "attention"
    with (pi.root / LOG.lstrip("/") / "log.db").open("wb") as file:
        file.truncate(2 * free)  # sparse: it takes no room, and counts as what the log has
    assert pi.disk(size=Size(2 * free))["room"].level == "ok"


def test_the_clock_tells_who_keeps_it_or_that_nobody_does(pi):
    pi.put("/proc/17/comm", "chronyd\n")
    assert pi.host()["clock"].level == "ok"
    assert "by chrony; there is no clock that runs on" in pi.host()["clock"].seen
    pi.put("/sys/class/rtc/rtc0/name", "rpi_rtc\n")
    assert "runs on" not in pi.host()["clock"].seen
    pi.clock_kept = False
    assert pi.host()["clock"].level == "attention"
    assert "though chrony runs" in pi.host()["clock"].seen


def test_a_voltage_that_is_too_low_is_trouble_and_one_that_was_is_told(pi):
    assert "power" not in pi.host()
    pi.put("/sys/class/hwmon/hwmon0/name", "cpu_thermal\n")
    pi.put("/sys/class/hwmon/hwmon1/name", "rpi_volt\n")
    pi.put("/sys/class/hwmon/hwmon1/in0_lcrit_alarm", "0\n")
    assert pi.host()["power"].level == "ok"
    pi.put("/sys/devices/platform/soc/soc:firmware/get_throttled", "50000\n")
    assert (pi.host()["power"].level, "was too low since the start" in pi.host()["power"].seen) == ("attention", True)
    pi.put("/sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n")
    assert pi.host()["power"].level == "trouble"


def test_memory_that_is_short_and_a_service_that_was_killed_for_it_are_seen(pi):
    pi.put("/proc/meminfo", "MemTotal: 512000 kB\nMemFree: 1 kB\nMemAvailable: 300000 kB\n")
    assert pi.host()["memory"].level == "ok"
    pi.put("/proc/meminfo", "MemTotal: 512000 kB\nMemFree: 1 kB\nMemAvailable: 30000 kB\n")
    assert pi.host()["memory"].level == "attention"
    service = "/sys/fs/cgroup/system.slice/tidegate.service"
    pi.put(f"{service}/memory.current", "50000000\n")
    pi.put(f"{service}/memory.max", "268435456\n")
    pi.put(f"{service}/memory.events", "low 0\noom_kill 0\n")
    assert pi.host()["memory of the service"].level == "ok"
    pi.put(f"{service}/memory.events", "low 0\noom_kill 2\n")
    assert pi.host()["memory of the service"].level == "trouble"


def test_a_watchdog_that_nobody_uses_is_named(pi):
    assert pi.host()["hardware watchdog"].level == "ok"
    pi.put("/sys/firmware/devicetree/base/model", "Raspberry Pi 4 Model B Rev 1.4\0")
    assert "dtparam=watchdog=on" in pi.host()["hardware watchdog"].advice
    pi.put("/sys/class/watchdog/watchdog0/identity", "Broadcom BCM2835 Watchdog timer\n")
    pi.put("/sys/class/watchdog/watchdog0/state", "inactive\n")
    assert pi.host()["hardware watchdog"].level == "attention"
    pi.put("/sys/class/watchdog/watchdog0/state", "active\n")
    assert pi.host()["hardware watchdog"].level == "ok"


def test_time_zones_that_are_not_installed_are_noticed(pi):
    assert pi.host()["time zones"].level == "attention"
    pi.put("/usr/share/zoneinfo/Europe/Berlin", "TZif")
    assert pi.host()["time zones"].level == "ok"


@pytest.mark.parametrize(
    "version, told",
    [("3.40.1", True), ("3.44.5", True), ("3.44.6", False), ("3.50.7", False), ("3.51.2", True), ("3.51.3", False)],
)
def test_a_sqlite_with_the_wal_reset_bug_is_told_and_why_it_does_no_harm(version, told):
    found = house.sqlite(version)
    assert (found.level, "only one that writes" in found.seen) == ("ok", told)


def test_a_log_folder_for_everybody_is_seen_and_files_of_another_user_are_trouble(pi):
    settings = LogSettings(path=LocalPath(LOG))
    (found,) = house.files(pi.machine, settings)
    assert "not there yet" in found.seen
    pi.log()
    (found,) = house.files(pi.machine, settings)
    assert found.level == "ok"
    (pi.root / LOG.lstrip("/")).chmod(0o755)
    (found,) = house.files(pi.machine, settings)
    assert (found.level, found.advice) == ("attention", f"sudo chmod o-rwx {LOG}")

    class Mixed(Machine):
        def about(self, path):
            found = super().about(path)
            if found is None or not path.endswith("log.db"):
                return found
            return os.stat_result([*found[:4], found.st_uid + 1, *found[5:10]])

    pi.put(f"{LOG}/log.db")
    (found,) = house.files(Mixed(str(pi.root)), settings)
    assert (found.level, "log.db" in found.seen, "chown" in found.advice) == ("trouble", True, True)


def test_a_log_of_another_machine_is_told_before_it_is_started(tmp_path, pi):
    settings = LogSettings(path=LocalPath(LOG))
    pi.log()
    assert list(house.identity(pi.machine, settings)) == []
    pi.put(f"{LOG}/journal")
    (found,) = house.identity(pi.machine, settings)
    assert (found.level, "nothing names this machine" in found.seen) == ("attention", True)
    serial = pi.put("/sys/firmware/devicetree/base/serial-number", "1000000012345678\0")
    (found,) = house.identity(pi.machine, settings)
    assert (found.level, "no machine yet" in found.seen) == ("ok", True)
    files = SystemFiles()
    files.board_file = str(serial)
    bind(str(pi.root / LOG.lstrip("/")), files)
    (found,) = house.identity(pi.machine, settings)
    assert (found.level, "this machine" in found.seen) == ("ok", True)
    serial.write_text("10000000ffffffff\0")
    (found,) = house.identity(pi.machine, settings)
    assert (found.level, "another machine" in found.seen, "replace" in found.advice) == ("attention", True, True)


CONFIG = """
gateway: {{id: pi, status: {{listen: "127.0.0.1:{port}", token_file: token}}}}
log: {{path: {log}}}
drivers:
  boiler: {{driver: serial, port: {tty}, baud: 9600, stream: boiler}}
  sensors: {{driver: mqtt, url: "mqtt://localhost:1883", subscribe: ["#"], stream: s}}
"""


def configured(folder, **names):
    file = folder / "tidegate.yaml"
    names = {"tty": "/dev/ttyS0", "log": folder / "log", "port": 1, **names}
    file.write_text(CONFIG.format(**names))
    return file


def test_a_secret_that_everybody_may_read_is_trouble(tmp_path):
    (tmp_path / "token").write_text("0123456789abcdef0123456789abcdef\n")
    config = load(str(configured(tmp_path)))
    (tmp_path / "token").chmod(0o600)
    assert [one.level for one in house.secrets(Machine(), config)] == ["ok"]
    (tmp_path / "token").chmod(0o644)
    (found,) = house.secrets(Machine(), config)
    assert (found.level, f"sudo chmod o-rwx {tmp_path}/token" == found.advice) == ("trouble", True)
    (tmp_path / "tidegate.yaml").chmod(0o666)
    assert [one.about for one in house.secrets(Machine(), config)] == ["secrets", "configuration"]


def test_a_port_that_is_not_there_or_not_for_the_gateway_is_trouble(tmp_path, pi):
    (tmp_path / "token").write_text("0123456789abcdef0123456789abcdef\n")
    config = load(str(configured(tmp_path)))
    settings = LogSettings(path=LocalPath(LOG))
    (found,) = house.ports(pi.machine, settings, config)
    assert (found.level, found.seen) == ("trouble", "there is no /dev/ttyS0")
    pi.put("/dev/ttyS0").chmod(0o660)
    (found,) = house.ports(pi.machine, settings, config)
    assert found.level == "ok"

    class Foreign(Machine):  # the log belongs to somebody who is in no group
        def about(self, path):
            found = super().about(path)
            uid = 4_000_000 if path == LOG else 0
            return None if found is None else os.stat_result([*found[:4], uid, *found[5:10]])

    pi.log()
    (found,) = house.ports(Foreign(str(pi.root)), settings, config)
    assert (found.level, "usermod -aG" in found.advice) == ("trouble", True)


def test_a_broker_here_that_drops_what_the_gateway_misses_is_told(tmp_path, pi):
    (tmp_path / "token").write_text("0123456789abcdef0123456789abcdef\n")
    config = load(str(configured(tmp_path)))
    assert list(house.brokers(pi.machine, config)) == []
    pi.put("/etc/mosquitto/mosquitto.conf", "persistence true\n# max_queued_messages 5\n")
    (found,) = house.brokers(pi.machine, config)
    assert (found.level, "keeps 1000 messages" in found.seen) == ("attention", True)
    ours = Path(__file__).parents[2] / "raspberry-pi" / "mosquitto-tidegate.conf"
    pi.put("/etc/mosquitto/conf.d/tidegate.conf", ours.read_text())
    (found,) = house.brokers(pi.machine, config)
    assert (found.level, "keeps 200000 messages" in found.seen) == ("ok", True)


def test_an_empty_tree_is_examined_to_the_end_and_nothing_unseen_is_called_well(pi):
    pi.root.mkdir()
    pi.clock_kept = False
    found = {one.about: one.level for one in examine(pi.machine, LogSettings(path=LocalPath(LOG)), None, None)}
    assert {about for about, level in found.items() if level == "attention"} >= {"file system", "memory", "clock"}


def run(*arguments):
    return CliRunner().invoke(main, ["doctor", *map(str, arguments)], env={"COLUMNS": "200"})


def test_this_machine_as_it_is_is_examined_without_a_gateway(tmp_path):
    (tmp_path / "token").write_text("0123456789abcdef0123456789abcdef\n")
    (tmp_path / "token").chmod(0o644)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        free = nobody.getsockname()[1]
    result = run("--json", "-c", configured(tmp_path, port=free, tty=tmp_path / "no-port"))
    told = json.loads(result.output)
    by = {one["about"]: one for one in told["findings"]}
    assert (result.exit_code, told["ok"]) == (1, False)
    assert by["gateway"]["seen"].startswith("it was not asked: nothing answers")
    assert by["port of boiler"]["level"] == by["secrets"]["level"] == "trouble"
    assert {"SQLite", "file system", "room", "memory", "time zones", "log folder", "configuration"} <= by.keys()
    text = run("-c", configured(tmp_path, port=free)).output
    assert "✖  secrets" in text
    assert f"try: sudo chmod o-rwx {tmp_path}/token" in text
    assert "SQLite" not in text


def test_a_configuration_with_mistakes_is_trouble_and_the_rest_is_examined_all_the_same(tmp_path):
    file = tmp_path / "tidegate.yaml"
    file.write_text("gateway: {id: pi}\nlgo: {}\n")
    told = json.loads(run("--json", "-c", file).output)
    by = {one["about"]: one for one in told["findings"]}
    assert by["configuration"]["level"] == "trouble"
    assert f"{file}:2:1" in by["configuration"]["seen"]
    assert by["configuration"]["advice"] == f"tidegate check {file}"
    assert "memory" in by


RUNNING = """
gateway: {{id: pi, status: "127.0.0.1:{status}"}}
log: {{path: {log}}}
drivers:
  lost: {{driver: mqtt, url: "mqtt://127.0.0.1:9", subscribe: ["#"], stream: s}}
"""


def test_beside_a_running_gateway_it_tells_what_that_says_of_its_parts(tmp_path):
    gateway = GatewayProcess(tmp_path, RUNNING)
    gateway.start()
    try:
        gateway.wait_for_line("driver:lost")
        by = {one["about"]: one for one in json.loads(run("--json", "-c", gateway.config).output)["findings"]}
    finally:
        gateway.stop()
    assert by["driver:lost"]["level"] == "attention"
    assert by["driver:lost"]["seen"].startswith("waiting: ")
    assert "it was not asked" not in by["gateway"]["seen"]
    assert by["log folder"]["level"] == "ok"
