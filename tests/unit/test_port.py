"""Serial ports: found by what a USB device says of itself, refused in words that help, counted by their UART."""

import errno
import fcntl
import os
import struct

import pytest

from gateway.port import Line, NotThere, Usb, find, open_terminal, ports, refused, words
from gateway.port import wire as wires

LINE = Line(9600, 8, "none", 1, "none", True, None)


@pytest.fixture
def machine(tmp_path):
    """A function that plugs a USB device in; and the folders that a kernel would show."""
    tree, dev = tmp_path / "class", tmp_path / "dev"
    tree.mkdir()
    dev.mkdir()

    def plug(name, vendor, product, serial=None):
        device = tmp_path / "devices" / f"usb-of-{name}"
        interface = device / "1-1:1.0" / name
        interface.mkdir(parents=True)
        (device / "idVendor").write_text(f"{vendor}\n")
        (device / "idProduct").write_text(f"{product}\n")
        if serial:
            (device / "serial").write_text(f"{serial}\n")
        (tree / name).mkdir()
        (tree / name / "device").symlink_to(interface)
        (dev / name).touch()

    return plug, {"tree": tree, "dev": dev}


def test_a_usb_device_is_found_under_whatever_number_it_has(machine):
    plug, where = machine
    plug("ttyUSB0", "10c4", "ea60", "0001")
    plug("ttyUSB7", "0403", "6001", "A5")
    plug("ttyACM0", "2341", "0043")
    assert find(None, Usb.parse("0403:6001"), **where) == str(where["dev"] / "ttyUSB7")
    assert find(None, Usb.parse("0403:6001:A5"), **where) == str(where["dev"] / "ttyUSB7")
    assert find(None, Usb.parse("2341:0043"), **where) == str(where["dev"] / "ttyACM0")


def test_a_port_that_is_not_there_is_told_with_those_that_are(machine, tmp_path, monkeypatch):
    plug, where = machine
    monkeypatch.setattr("gateway.port.lookup.BY_ID", tmp_path / "by-id")
    with pytest.raises(NotThere, match="There is no USB serial port at all now"):
        find("/dev/serial/by-id/usb-x", None, **where)
    plug("ttyUSB0", "10c4", "ea60", "0001")
    with pytest.raises(NotThere, match=r"no USB device 0403:6001 is there.*ttyUSB0 \(usb: 10c4:ea60:0001\)"):
        find(None, Usb.parse("0403:6001"), **where)
    (tmp_path / "by-id").mkdir()
    (tmp_path / "by-id" / "usb-Silicon_Labs").touch()
    with pytest.raises(NotThere, match=r"there is no /dev/ttyUSB9; is it plugged in\? There are .*usb-Silicon_Labs"):
        find("/dev/ttyUSB9", None, **where)


def test_one_of_several_alike_is_not_guessed(machine):
    plug, where = machine
    plug("ttyUSB0", "0403", "6001", "A1")
    plug("ttyUSB1", "0403", "6001", "A2")
    with pytest.raises(NotThere, match=r"has 2 ports: ttyUSB0, ttyUSB1; write usb: with its serial number too"):
        find(None, Usb.parse("0403:6001"), **where)
    assert find(None, Usb.parse("0403:6001:A2"), **where).endswith("ttyUSB1")


def test_a_port_of_another_group_names_the_group_and_the_command(tmp_path, monkeypatch):
    port = tmp_path / "ttyUSB0"
    port.touch()
    port.chmod(0o660)
    monkeypatch.setattr(
        words, "_name_of", lambda look_up, number, field: "dialout" if field == "gr_name" else "tidegate"
    )
    said = refused(str(port), PermissionError(errno.EACCES, "Permission denied"))
    assert said.endswith("it belongs to the group dialout: sudo usermod -aG dialout tidegate, and start again")
    port.chmod(0o600)
    assert "mode 0600 lets no group write" in refused(str(port), PermissionError(errno.EACCES, "no"))


def test_what_is_no_port_is_told(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OSError, match="does not take these settings.*is it a serial port"):
        open_terminal(str(file), LINE)
    with pytest.raises(OSError, match="cannot be opened|its device is not"):
        open_terminal(str(tmp_path / "none"), LINE)


def test_what_a_port_cannot_is_told_and_what_it_does_not_know_is_left_out():
    master, slave = os.openpty()
    name = os.ttyname(slave)
    try:
        with pytest.raises(OSError, match="has no RS-485 mode of its own.*remove rs485:"):
            open_terminal(name, LINE._replace(rs485=wires.Rs485()))
        wire = open_terminal(name, LINE._replace(flow="rtscts"))
        assert wire.counts() is None
        assert wire.per_s == 960
        with pytest.raises(BlockingIOError):
            os.read(wire.fd, 10)  # empty is not the end
        wire.write(b"to the device", 1.0)
        assert os.read(master, 100) == b"to the device"
        wire.close()
    finally:
        os.close(master)
        os.close(slave)


def test_the_counters_of_a_uart_are_read_from_their_places(monkeypatch):
    def ioctl(fd, request, argument):
        assert request == 0x545D
        assert len(argument) == 80
        return struct.pack("20i", *range(20))

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    counts = wires.Wire(0, 4096, None, lambda: None).counts()
    # linux/serial.h: cts, dsr, rng, dcd, rx, tx, frame, overrun, parity, brk, buf_overrun
    assert counts == {
        "uart_framing_errors_total": 6,
        "uart_overruns_total": 7,
        "uart_parity_errors_total": 8,
        "uart_breaks_total": 9,
        "uart_buffer_overruns_total": 10,
    }


@pytest.mark.parametrize(
    ("changes", "per_s", "told"),
    [
        ({}, 960, "9600 baud, 8N1"),
        ({"parity": "even", "bytesize": 7}, 960, "9600 baud, 7E1"),
        ({"stopbits": 2, "parity": "odd"}, 800, "9600 baud, 8O2"),
    ],
)
def test_the_rate_of_a_line_counts_all_bits_of_a_byte(changes, per_s, told):
    line = LINE._replace(**changes)
    assert (line.per_s, str(line)) == (per_s, told)


def test_the_ports_that_are_there_are_told_by_the_name_that_stays_the_same(tmp_path):
    by_id = tmp_path / "serial" / "by-id"
    by_id.mkdir(parents=True)
    for name in ("ttyUSB0", "ttyUSB1", "ttyAMA0", "ttyS7"):
        (tmp_path / name).touch()
    (by_id / "usb-FTDI-port0").symlink_to("../../ttyUSB1")
    (tmp_path / "serial0").symlink_to("ttyAMA0")
    found = [path.removeprefix(f"{tmp_path}/") for path in ports(by_id, tmp_path)]
    assert found == ["serial/by-id/usb-FTDI-port0", "serial0", "ttyUSB0"]
    assert ports(tmp_path / "none", tmp_path / "none") == []
