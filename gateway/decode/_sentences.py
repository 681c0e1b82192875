"""What NMEA 0183 sentences carry: for each type its fields, and how each is taken out of the cells between the commas.

The layouts are those of the public descriptions of IEC 61162-1 (gpsd's "NMEA Revealed" is the fullest). Every value has
one unit whatever the sentence has: degrees (north and east are positive), m, m/s, °C, hPa. An empty cell is missing.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from gateway.decode._text import number
from gateway.errors import Malformed
from gateway.plugin import Kind

KNOT, KMH, MPH = 1852 / 3600, 1 / 3.6, 0.44704  # m/s

Cells = list[str | None]  # the address and what follows; beyond the end None, where an empty cell is ""
Take = Callable[[Cells], Any]  # a value out of a sentence; None: missing. Raises Malformed

PAD: Cells = [None] * 24  # behind the cells of a sentence: no layout but XDR is longer

_ANGLE = re.compile(r"(\d{1,3})([0-5]\d(?:\.\d*)?)", re.ASCII)  # ddmm.mmmm
_CLOCK = re.compile(r"([01]\d|2[0-3])([0-5]\d)([0-5]\d|60)(\.\d*)?", re.ASCII)  # hhmmss.ss
_DATE = re.compile(r"(0[1-9]|[12]\d|3[01])(0[1-9]|1[0-2])(\d\d)", re.ASCII)  # ddmmyy


def _text(at: int) -> Take:
    return lambda cells: cells[at] or None


def _whole(at: int) -> Take:
    def take(cells: Cells) -> int | None:
        if not (text := cells[at]):
            return None
        if not isinstance(value := number(text), int):
            raise Malformed(f"{text[:20]!r} is no whole number")
        return value

    return take


def _float(at: int, factor: float = 1.0) -> Take:
    def take(cells: Cells) -> float | None:
        if not (text := cells[at]):
            return None
        value = _number(text)
        return value if factor == 1 else round(value * factor, 4)

    return take


def _number(text: str) -> float:
    value = number(text)
    if value is None:
        raise Malformed(f"{text[:20]!r} is no number")
    return float(value)


def _either(*takes: Take) -> Take:
    """The first one that is there: a sentence may say the same in several units."""
    return lambda cells: next((value for take in takes if (value := take(cells)) is not None), None)


def _flag(at: int) -> Take:
    """`A` is valid, `V` is a warning: do not use it."""

    def take(cells: Cells) -> bool | None:
        if (text := cells[at]) and text not in ("A", "V"):
            raise Malformed(f"{text[:20]!r} is neither A nor V")
        return text == "A" if text else None

    return take


def _word(at: int, words: Mapping[str, str]) -> Take:
    def take(cells: Cells) -> str | None:
        text = cells[at]
        return words.get(text, text) if text else None

    return take


def _angle(at: int, plus: str, minus: str, most: int) -> Take:
    """Degrees and minutes, and the hemisphere behind them, as signed degrees."""

    def take(cells: Cells) -> float | None:
        text, side = cells[at], cells[at + 1]
        if not text:
            return None
        match = _ANGLE.fullmatch(text)
        if match is None or side not in (plus, minus):
            raise Malformed(f"{text[:20]!r} {(side or '')[:5]!r} is no angle in degrees and minutes")
        value = round(int(match[1]) + float(match[2]) / 60, 8)
        if value > most:
            raise Malformed(f"{text[:20]!r} is more than {most} degrees")
        return value if side == plus else -value

    return take


def _east(at: int) -> Take:
    """Degrees, and `E` or `W` behind them: east is positive."""

    def take(cells: Cells) -> float | None:
        text, side = cells[at], cells[at + 1]
        if not text:
            return None
        if side not in ("E", "W"):
            raise Malformed(f"{(side or '')[:20]!r} is neither E nor W")
        return _number(text) if side == "E" else -_number(text)

    return take


def _time_of_day(at: int) -> Take:
    def take(cells: Cells) -> float | None:
        if not (text := cells[at]):
            return None
        hour, minute, second, part = _clock(text)
        return int(hour) * 3600 + int(minute) * 60 + float(second + part)

    return take


def _clock(text: str) -> tuple[str, str, str, str]:
    """Hours, minutes, seconds, and the part of a second with its point, without zeros at its end."""
    match = _CLOCK.fullmatch(text)
    if match is None:
        raise Malformed(f"{text[:20]!r} is no time of day")
    return match[1], match[2], match[3], (match[4] or "").rstrip("0").rstrip(".")


def _moment(clock: int, date: Callable[[Cells], str | None]) -> Take:
    """ISO 8601, of a time of day and a date."""

    def take(cells: Cells) -> str | None:
        if not (text := cells[clock]) or (day := date(cells)) is None:
            return None
        hour, minute, second, part = _clock(text)
        return f"{day}T{hour}:{minute}:{second}{part}Z"

    return take


def _date(at: int) -> Callable[[Cells], str | None]:
    def take(cells: Cells) -> str | None:
        if not (text := cells[at]):
            return None
        match = _DATE.fullmatch(text)
        if match is None:
            raise Malformed(f"{text[:20]!r} is no date")
        return f"{'19' if match[3] >= '80' else '20'}{match[3]}-{match[2]}-{match[1]}"

    return take


def _date_in_parts(day: int, month: int, year: int) -> Callable[[Cells], str | None]:
    def take(cells: Cells) -> str | None:
        parts = cells[day], cells[month], cells[year]
        if not all(parts):
            return None
        text = "-".join((cells[year] or "", (cells[month] or "").zfill(2), (cells[day] or "").zfill(2)))
        if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])", text, re.ASCII):
            raise Malformed(f"{text[:20]!r} is no date")
        return text

    return take


def _wind(at: int) -> Take:
    """A speed, and its unit behind it."""
    units = {"N": KNOT, "K": KMH, "M": 1.0, "S": MPH}

    def take(cells: Cells) -> float | None:
        text, unit = cells[at], cells[at + 1]
        if not text:
            return None
        if unit not in units:
            raise Malformed(f"{(unit or '')[:20]!r} is no unit of a speed")
        return round(_number(text) * units[unit], 4)

    return take


def _used(cells: Cells) -> int:
    return sum(bool(cell) for cell in cells[3:15])


def _satellite(n: int, part: int, kind: Callable[[int], Take]) -> Take:
    """Part of the n-th satellite; behind the last one a signal's id may stand, which is none."""
    take = kind(4 * n + part)
    return lambda cells: None if cells[4 * n + 3] is None else take(cells)


def _transducers(value: Callable[[Cells, int], Any]) -> Take:
    """By its name, or its type where it has none, something of each transducer."""

    def take(cells: Cells) -> dict[str, Any] | None:
        found: dict[str, Any] = {}
        for at in range(1, len(cells) - 3, 4):
            if (kind := cells[at]) is None or cells[at + 3] is None:
                break
            name = free = cells[at + 3] or kind or "unnamed"
            again = 1
            while free in found:
                again += 1
                free = f"{name}_{again}"
            found[free] = value(cells, at)
        return {name: one for name, one in found.items() if one not in (None, "")} or None

    return take


def _measured(cells: Cells, at: int) -> int | float | str | None:
    text = cells[at + 1]
    return None if not text else text if (value := number(text)) is None else value


# -- the sentences -----------------------------------------------------------------------------------------------------

LATITUDE, LONGITUDE = ("N", "S", 90), ("E", "W", 180)


def _position(at: int) -> dict[str, Take]:
    return {"latitude": _angle(at, *LATITUDE), "longitude": _angle(at + 2, *LONGITUDE)}


_VDM: dict[str, Take] = {
    "fragments": _whole(1), "fragment": _whole(2), "message_id": _whole(3), "channel": _text(4), "ais": _text(5),
    "fill_bits": _whole(6),
}  # fmt: skip
SENTENCES: dict[str, dict[str, Take]] = {
    "RMC": {
        "time": _moment(1, _date(9)), "time_of_day_s": _time_of_day(1), "valid": _flag(2), **_position(3),
        "speed_mps": _float(7, KNOT), "course_deg": _float(8), "variation_deg": _east(10), "mode": _text(12),
    },
    "GGA": {
        "time_of_day_s": _time_of_day(1), **_position(2), "quality": _whole(6), "satellites": _whole(7),
        "hdop": _float(8), "altitude_m": _float(9), "geoid_m": _float(11), "correction_age_s": _float(13),
        "station": _text(14),
    },
    "GNS": {
        "time_of_day_s": _time_of_day(1), **_position(2), "mode": _text(6), "satellites": _whole(7), "hdop": _float(8),
        "altitude_m": _float(9), "geoid_m": _float(10), "correction_age_s": _float(11), "station": _text(12),
    },
    "GLL": {**_position(1), "time_of_day_s": _time_of_day(5), "valid": _flag(6), "mode": _text(7)},
    "VTG": {
        "course_deg": _float(1), "course_magnetic_deg": _float(3),
        "speed_mps": _either(_float(5, KNOT), _float(7, KMH)), "mode": _text(9),
    },
    "GSA": {
        "selection": _word(1, {"A": "automatic", "M": "manual"}), "fix": _whole(2), "satellites": _used,
        "pdop": _float(15), "hdop": _float(16), "vdop": _float(17),
    },
    "GSV": {
        "messages": _whole(1), "message": _whole(2), "in_view": _whole(3),
        **{
            f"sat{n}_{name}": _satellite(n, part, kind)
            for n in range(1, 5)
            for part, (name, kind) in enumerate(
                (("id", _text), ("elevation_deg", _float), ("azimuth_deg", _float), ("snr_db", _float))
            )
        },
    },
    "ZDA": {
        "time": _moment(1, _date_in_parts(2, 3, 4)), "time_of_day_s": _time_of_day(1), "zone_hours": _whole(5),
        "zone_minutes": _whole(6),
    },
    "HDT": {"heading_deg": _float(1)},
    "HDM": {"heading_magnetic_deg": _float(1)},
    "HDG": {"heading_magnetic_deg": _float(1), "deviation_deg": _east(2), "variation_deg": _east(4)},
    "ROT": {"turn_deg_per_min": _float(1), "valid": _flag(2)},
    "VHW": {
        "heading_deg": _float(1), "heading_magnetic_deg": _float(3),
        "water_speed_mps": _either(_float(5, KNOT), _float(7, KMH)),
    },
    "DBT": {"depth_m": _either(_float(3), _float(1, 0.3048), _float(5, 1.8288))},
    "DPT": {"depth_m": _float(1), "offset_m": _float(2), "range_m": _float(3)},
    "MTW": {"water_temperature_c": _float(1)},
    "MWV": {
        "wind_angle_deg": _float(1), "wind_reference": _word(2, {"R": "relative", "T": "true"}), "wind_mps": _wind(3),
        "valid": _flag(5),
    },
    "MWD": {
        "wind_direction_deg": _float(1), "wind_direction_magnetic_deg": _float(3),
        "wind_mps": _either(_float(7), _float(5, KNOT)),
    },
    "MDA": {
        "pressure_hpa": _either(_float(3, 1000), _float(1, 33.8639)), "air_temperature_c": _float(5),
        "water_temperature_c": _float(7), "humidity_percent": _float(9), "dew_point_c": _float(11),
        "wind_direction_deg": _float(13), "wind_direction_magnetic_deg": _float(15),
        "wind_mps": _either(_float(19), _float(17, KNOT)),
    },
    "XDR": {
        "transducers": _transducers(_measured), "units": _transducers(lambda cells, at: cells[at + 2]),
    },
    "VDM": _VDM,
    "VDO": _VDM,
}  # fmt: skip

_KINDS: dict[Kind, str] = {
    "str": "talker type tag time mode station selection wind_reference channel ais sat1_id sat2_id sat3_id sat4_id",
    "int": "quality satellites fix messages message in_view zone_hours zone_minutes fragments fragment message_id "
    "fill_bits",
    "bool": "valid",
    "object": "transducers units",
}
KINDS: dict[str, Kind] = {  # of the values of every field; `f1` and so on hold anything
    **{name: "float" for layout in SENTENCES.values() for name in layout},
    **{name: kind for kind, names in _KINDS.items() for name in names.split()},
}

# The types that the public lists have; those that are not above are read as f1, f2, …
_STANDARD = (
    "AAM ABK ABM ACA ACF ACG ACK ACM ACN ACS AFB AGA AID AIR AKD ALA ALC ALF ALM ALR APA APB ARC ASD ASN BBM BCG BCL "
    "BEC BER BOD BWC BWR BWW CBR CEK COP CPC CPD CPG CPN CPS CUR DBK DBS DBT DCN DCR DDC DLM DOR DPT DRU DSC DSE DSI "
    "DSR DTM ECB ECI EPV ESI ETL EVE FIR FSI FSR FTS GBS GDA GDC GDF GDP GEN GFA GFM GGA GGC GGF GGP GLA GLC GLF GLL "
    "GLP GMP GNS GOA GOC GOF GOP GRS GSA GST GSV GTD GXA GXP HBT HCC HCD HCR HDG HDM HDT HFB HMR HMS HRM HSC HSS HTC "
    "HTD HVD HVM ICR IMA IRD ITS LCD LR1 LR2 LR3 LRF LRI MCP MDA MEB MHU MMB MOB MSK MSS MTA MTW MWD MWH MWV NAK NLS "
    "NMM NRM NRX NSR NTG OBO OLN OLW OMP OSD ONZ OUT PEF POS PRC RLM RMA RMB RMC RNN ROO ROR ROT RPM RSA RSD RST RTE "
    "SBK SCD SCY SDB SEL SFI SGB SID SIU SLM SMB SMV SNU SPO SPS SPW SRP SSA SSD STC STN STR SYS TBR TBS TDS TEC TEP "
    "TFI TFR THS TIF TLB TLL TMA TPC TPR TPT TRC TRD TRF TRL TRO TRS TSA TSP TSR TTD TTM TUT TXT UID UUT VBC VBW VCD "
    "VDC VDM VDO VDR VER VFS VHW VLW VPE VPW VRP VSD VSE VSI VTA VTG VTI VWE VWR VWT WCV WDC WDR WFM WNC WNR WPL XDR "
    "XTE XTR YWP YWS ZAA ZCD ZDA ZDL ZEV ZFO ZLZ ZTG "
)
STANDARD = frozenset(_STANDARD.split())
