"""NMEA 0183: what the sentences of public descriptions and recordings come to, and what is refused."""

import msgspec
import pytest
from shaping import Event, mistakes, program, run

from gateway.decode import decoding, explorer, reader
from gateway.decode._sentences import KINDS
from gateway.decode._sentences import SENTENCES as SENTENCES_KNOWN
from gateway.decode.nmea import Options, checksum
from gateway.errors import Malformed, NoRecord
from gateway.plugin import Mistake

explore = explorer(decoding("nmea"))


def sealed(body, sign="$"):
    return f"{sign}{body}*{checksum(body.encode()):02X}"


# From the descriptions of the protocol that are public, and from ships' recordings that NOAA publishes.
SENTENCES = [
    ("$GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W*6A",
     {"time": "1994-03-23T12:35:19Z", "time_of_day_s": 45319.0, "valid": True, "latitude": 48.1173, "longitude": 11.51666667,
      "speed_mps": 11.5236, "course_deg": 84.4, "variation_deg": -3.1}),
    ("$GPRMC,081836,A,3751.65,S,14507.36,E,000.0,360.0,130998,011.3,E*62",
     {"time": "1998-09-13T08:18:36Z", "time_of_day_s": 29916.0, "valid": True, "latitude": -37.86083333,
      "longitude": 145.12266667, "speed_mps": 0.0, "course_deg": 360.0, "variation_deg": 11.3}),
    ("$GNRMC,001031.00,A,4404.13993,N,12118.86023,W,0.146,,100117,,,A*7B",
     {"time": "2017-01-10T00:10:31Z", "time_of_day_s": 631.0, "valid": True, "latitude": 44.06899883,
      "longitude": -121.31433717, "speed_mps": 0.0751, "mode": "A"}),
    (sealed("GPRMC,235959.250,V,,,,,,,311299,,,N"),
     {"time": "1999-12-31T23:59:59.25Z", "time_of_day_s": 86399.25, "valid": False, "mode": "N"}),
    ("$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47",
     {"time_of_day_s": 45319.0, "latitude": 48.1173, "longitude": 11.51666667, "quality": 1, "satellites": 8, "hdop": 0.9,
      "altitude_m": 545.4, "geoid_m": 46.9}),
    ("$GPGGA,195959.00,1541.31258893,N,05130.51204125,W,2,06,1.5,9.2,M,-37.6,M,4.0,0138*7E",
     {"time_of_day_s": 71999.0, "latitude": 15.68854315, "longitude": -51.50853402, "quality": 2, "satellites": 6, "hdop": 1.5,
      "altitude_m": 9.2, "geoid_m": -37.6, "correction_age_s": 4.0, "station": "0138"}),
    ("$GNGNS,014035.00,4332.69262,S,17235.48549,E,RR,13,0.9,25.63,11.24,,*70",
     {"time_of_day_s": 6035.0, "latitude": -43.544877, "longitude": 172.59142483, "mode": "RR", "satellites": 13, "hdop": 0.9,
      "altitude_m": 25.63, "geoid_m": 11.24}),
    ("$GPGLL,4916.45,N,12311.12,W,225444,A,*1D",
     {"latitude": 49.27416667, "longitude": -123.18533333, "time_of_day_s": 82484.0, "valid": True}),
    ("$GPVTG,147.44,T,164.31,M,0.26,N,0.49,K,D*2C",
     {"course_deg": 147.44, "course_magnetic_deg": 164.31, "speed_mps": 0.1338, "mode": "D"}),
    ("$GPGSA,A,3,04,05,,09,12,,,24,,,,,2.5,1.3,2.1*39",
     {"selection": "automatic", "fix": 3, "satellites": 5, "pdop": 2.5, "hdop": 1.3, "vdop": 2.1}),
    ("$GPGSV,3,1,12,03,09,280,,04,11,322,,08,11,209,35,14,68,160,42*70",
     {"messages": 3, "message": 1, "in_view": 12, "sat1_id": "03", "sat1_elevation_deg": 9.0, "sat1_azimuth_deg": 280.0,
      "sat2_id": "04", "sat2_elevation_deg": 11.0, "sat2_azimuth_deg": 322.0,
      "sat3_id": "08", "sat3_elevation_deg": 11.0, "sat3_azimuth_deg": 209.0, "sat3_snr_db": 35.0,
      "sat4_id": "14", "sat4_elevation_deg": 68.0, "sat4_azimuth_deg": 160.0, "sat4_snr_db": 42.0}),
    (sealed("GPGSV,3,3,09,32,10,100,20,1"),  # the last cell is a signal's id, and no second satellite
     {"messages": 3, "message": 3, "in_view": 9, "sat1_id": "32", "sat1_elevation_deg": 10.0, "sat1_azimuth_deg": 100.0,
      "sat1_snr_db": 20.0}),
    ("$GPZDA,201530.00,04,07,2002,00,00*60",
     {"time": "2002-07-04T20:15:30Z", "time_of_day_s": 72930.0, "zone_hours": 0, "zone_minutes": 0}),
    ("$GPHDT,74.20,T*34", {"heading_deg": 74.2}),
    (sealed("HCHDM,101.1,M"), {"heading_magnetic_deg": 101.1}),
    ("$HCHDG,101.1,,,7.1,W*3C", {"heading_magnetic_deg": 101.1, "variation_deg": -7.1}),
    ("$GPROT,35.6,A*01", {"turn_deg_per_min": 35.6, "valid": True}),
    ("$WIMWV,214.8,R,0.1,K,A*28", {"wind_angle_deg": 214.8, "wind_reference": "relative", "wind_mps": 0.0278, "valid": True}),
    (sealed("WIMWV,12.0,T,10,N,A"), {"wind_angle_deg": 12.0, "wind_reference": "true", "wind_mps": 5.1444, "valid": True}),
    (sealed("WIMWD,10.1,T,7.1,M,19.4,N,10.0,M"),
     {"wind_direction_deg": 10.1, "wind_direction_magnetic_deg": 7.1, "wind_mps": 10.0}),
    ("$SDDBT,7.8,f,2.4,M,1.3,F*0D", {"depth_m": 2.4}),
    (sealed("SDDBT,10.0,f,,M,,F"), {"depth_m": 3.048}),
    ("$SDDPT,76.1,0.0,100*7A", {"depth_m": 76.1, "offset_m": 0.0, "range_m": 100.0}),
    ("$INMTW,17.9,C*1B", {"water_temperature_c": 17.9}),
    ("$IIVHW,245.1,T,245.1,M,000.01,N,000.01,K*55",
     {"heading_deg": 245.1, "heading_magnetic_deg": 245.1, "water_speed_mps": 0.0051}),
    (sealed("WIMDA,29.9,I,,B,20.3,C,,C,48.1,,9.0,C,92.0,T,89.0,M,5.0,N,2.6,M"),
     {"pressure_hpa": 1012.5306, "air_temperature_c": 20.3, "humidity_percent": 48.1, "dew_point_c": 9.0,
      "wind_direction_deg": 92.0, "wind_direction_magnetic_deg": 89.0, "wind_mps": 2.6}),
    ("$IIXDR,P,1.02481,B,Barometer*29", {"transducers": {"Barometer": 1.02481}, "units": {"Barometer": "B"}}),
    (sealed("IIXDR,C,19.52,C,TempAir,C,4,C,TempAir,S,,,DOOR,H,47.5,P,"),
     {"transducers": {"TempAir": 19.52, "TempAir_2": 4, "H": 47.5}, "units": {"TempAir": "C", "TempAir_2": "C", "H": "P"}}),
    ("$PGRMZ,93,f,3*21", {"type": "GRMZ", "talker": "P", "f1": 93, "f2": "f", "f3": 3}),
    ("$GPTXT,01,01,02,u-blox ag - www.u-blox.com*50", {"f1": 1, "f2": 1, "f3": 2, "f4": "u-blox ag - www.u-blox.com"}),
    ("!AIVDM,2,1,3,B,55P5TL01VIaAL@7WKO@mBplU@<PDhh000000001S;AJ::4A80?4i@E53,0*3E",
     {"fragments": 2, "fragment": 1, "message_id": 3, "channel": "B",
      "ais": "55P5TL01VIaAL@7WKO@mBplU@<PDhh000000001S;AJ::4A80?4i@E53", "fill_bits": 0}),
    ("\\g:1-2-73874,n:157036,s:r003669945,c:1241544035*4A\\!AIVDM,1,1,,B,15N4cJ`005Jrek0H@9n`DW5608EP,0*13",
     {"tag": "g:1-2-73874,n:157036,s:r003669945,c:1241544035", "fragments": 1, "fragment": 1, "channel": "B",
      "ais": "15N4cJ`005Jrek0H@9n`DW5608EP", "fill_bits": 0}),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "fields"), SENTENCES, ids=lambda one: one[:22] if isinstance(one, str) else "")
def test_what_a_sentence_says(sentence, fields):
    address = sentence.rpartition("\\")[2][1:].partition(",")[0]
    assert explore(f"{sentence}\r\n".encode()) == {"talker": address[:-3], "type": address[-3:], **fields}


@pytest.mark.parametrize(("sentence", "fields"), SENTENCES, ids=lambda one: one[:22] if isinstance(one, str) else "")
def test_a_reader_gives_what_explore_shows(sentence, fields):
    shape = msgspec.defstruct("Some", [(name, type(value)) for name, value in fields.items()])
    assert msgspec.to_builtins(reader(decoding("nmea"), shape)(sentence.encode())) == fields


GGA = "$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (GGA.replace("*47", "*48"), "its checksum is 47, not 48"),
        (GGA.replace("8", "9", 1), "its checksum is 46, not 47"),
        (GGA[:-3], "no checksum; if the device sends none, write decode: {nmea: {checksum: if_there}}"),
        (GGA[:40], "no checksum; if the device sends none, write decode: {nmea: {checksum: if_there}}"),
        (GGA[:-1], "cut off in its checksum"),
        (GGA[1:], "no sentence: there is no $ and no !"),
        (GGA + "\n" + GGA, "more than one line"),
        ("\\s:x*00\\" + GGA, "its checksum is 31, not 00"),
        (sealed("GP,1"), "'GP' is no type of sentence"),
        (sealed("gprmc,1"), "'gprmc' is no type of sentence"),
        (sealed("GPGGA,123519,4867.038,N"), "'4867.038' 'N' is no angle in degrees and minutes"),
        (sealed("GPGGA,123519,4807.038,E"), "'4807.038' 'E' is no angle in degrees and minutes"),
        (sealed("GPGGA,123519,9007.038,N"), "'9007.038' is more than 90 degrees"),
        (sealed("GPGGA,246060"), "'246060' is no time of day"),
        (sealed("GPRMC,123519,A,,,,,,,310299"), None),  # a date that is none is the language's to refuse
        (sealed("GPRMC,123519,A,,,,,,,3199"), "'3199' is no date"),
        (sealed("GPRMC,123519,B"), "'B' is neither A nor V"),
        (sealed("GPGGA,,,,,,1.5"), "'1.5' is no whole number"),
        (sealed("GPHDT,nan,T"), "'nan' is no number"),
        (sealed("WIMWV,1,R,5,X,A"), "'X' is no unit of a speed"),
        (sealed("GPTXT," + "x" * 1024), "more than 1024 bytes"),
    ],
)
def test_what_is_no_sentence_says_why(line, told):
    if told is None:
        explore(line.encode())
        return
    with pytest.raises(Malformed) as caught:
        explore(line.encode())
    assert str(caught.value) == told


def test_a_sentence_that_was_joined_to_the_end_of_another_is_found():
    assert explore(b"\x00\xff" + GGA.encode())["altitude_m"] == 545.4
    assert explore(b"$GPGSV,3,1,12,03,0" + GGA.encode())["type"] == "GGA"


def test_without_a_checksum_a_sentence_is_read_only_where_the_options_say_so():
    lax = explorer(decoding({"nmea": {"checksum": "if_there"}}))
    assert lax(GGA[:-3].encode()) == lax(GGA.encode()) == explore(GGA.encode())
    with pytest.raises(Malformed, match="its checksum is 47"):
        lax(GGA.replace("*47", "*48").encode())
    with pytest.raises(Malformed, match="cut off"):
        lax(GGA[:-1].encode())


@pytest.mark.parametrize("types", [["GGA"], ["GPGGA"], ["RMC", "GGA"]])
def test_of_the_types_that_are_named_the_others_are_no_records(types):
    some = explorer(decoding({"nmea": {"types": types}}))
    assert some(GGA.encode())["type"] == "GGA"
    with pytest.raises(NoRecord, match="a sentence of type GRMZ"):
        some(b"$PGRMZ,93,f,3*21")


def test_a_type_that_cannot_be_is_told_at_its_place():
    with pytest.raises(Mistake) as caught:
        decoding({"nmea": {"types": ["RMC", "$gga"]}})
    assert caught.value.path == ("types", 1)


def test_a_pipeline_reads_the_sentences_that_can_carry_what_it_needs():
    schema = {"time": "time", "latitude": "float", "longitude": "float", "speed_mps": "float [0..100]"}
    made = program([{"emit": {name: name for name in schema}}], schema=schema, decoders={"in": "nmea"})
    lines = [sentence for sentence, _ in SENTENCES]
    out = run(made, [Event("gps", line.encode()) for line in lines])
    assert len(out.rows()) == 3
    assert out.rows()[0] == {
        "time": "1994-03-23T12:35:19Z", "latitude": 48.1173, "longitude": 11.51666667, "speed_mps": 11.5236,
    }  # fmt: skip
    assert [reason for _, reason, *_ in out.letters()] == ["missing latitude"]  # the receiver that had no fix
    assert made.stats()["no_record"] == len(lines) - 4


def test_a_pipeline_reads_proprietary_sentences_and_names_in_sentences():
    made = program([{"emit": {"h": "f1 * 0.3048"}}], schema={"f1": "float", "f2": "str"}, decoders={"in": "nmea"})
    out = run(made, [Event("k", b"$PGRMZ,93,f,3*21"), Event("k", GGA.encode())])
    assert [round(row["h"], 2) for row in out.rows()] == [28.35]
    assert made.stats()["no_record"] == 1
    schema = {"transducers.TempAir": "float", "units.TempAir": "str"}
    made = program([{"emit": {"t": "transducers.TempAir"}}], schema=schema, decoders={"in": "nmea"})
    assert run(made, [Event("k", b"$IIXDR,C,19.52,C,TempAir*19")]).rows() == [{"t": 19.52}]


def test_what_no_sentence_carries_is_told_at_load():
    steps = [{"emit": {"a": "altitude_m", "s": "speed_mps"}}]
    (found,) = mistakes(steps, schema={"altitude_m": "float", "speed_mps": "float"}, decoders={"in": "nmea"})
    assert (found.path, str(found)) == (
        ("schema", "speed_mps"),
        "stream `in`: no sentence carries all of altitude_m, speed_mps; write `?` behind what may be missing",
    )
    (found,) = mistakes(schema={"lat": "float"}, decoders={"in": "nmea"})
    assert found.path == ("schema", "lat")


def test_what_a_field_holds_is_known_for_every_field_of_every_sentence():
    held = {"int": int, "float": float, "str": str, "bool": bool, "object": dict}
    fields = {name for layout in SENTENCES_KNOWN.values() for name in layout}
    assert set(KINDS) == fields | {"talker", "type", "tag"}
    for sentence, _ in SENTENCES:
        for name, value in explore(sentence.encode()).items():
            assert name.startswith("f") and name[1:].isdigit() or type(value) is held[KINDS[name]], (sentence, name)


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"time": "float", "latitude": "float"}, "stream `in`: time is text; write time: str"),
        ({"latitude": "str"}, "stream `in`: latitude is a number; write latitude: float"),
        ({"latitude": "int"}, "stream `in`: latitude is a number; write latitude: float"),
        ({"satellites": "bool"}, "stream `in`: satellites is a whole number; write satellites: int"),
        ({"valid": "str?"}, "stream `in`: valid is true or false; write valid: bool"),
        ({"transducers": "str"}, "stream `in`: transducers is an object; write transducers.NAME"),
        ({"time": "time[ms]"}, "stream `in`: time is text; write time: str"),
    ],
)
def test_a_field_of_another_type_than_sentences_have_is_told_at_load(schema, told):
    (found,) = mistakes(schema=schema, decoders={"in": "nmea"})
    assert str(found) == told


@pytest.mark.parametrize(
    "schema",
    [{"time": "time"}, {"time": "str"}, {"satellites": "float"}, {"f1": "int", "f2": "str"}, {"transducers.A": "int"}],
    ids=str,
)
def test_what_fits_and_what_nobody_can_know_is_taken(schema):
    program(schema=schema, decoders={"in": "nmea"})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("lat", "did you mean `latitude`?"),
        ("lon", "did you mean `longitude`?"),
        ("speed_kmh", "did you mean `speed_mps`?"),
        ("temp", "did you mean `water_temperature_c` or `air_temperature_c`?"),
        ("boiler", "nmea, which has no field `boiler`; docs/language.md has a table of them"),
    ],
)
def test_a_field_that_no_sentence_has_is_told_with_those_it_may_be(name, hint):
    (found,) = mistakes(schema={name: "float"}, decoders={"in": "nmea"})
    assert hint in str(found)
    assert str(found).endswith("; docs/language.md has a table of them")


def test_types_that_no_sentence_has_are_doubted_and_all_that_the_standard_has_are_not():
    doubts = Options(
        types=["RCM", "GPRMC", "GGGA", "GPGAA", "RMC", "RTE", "GBS", "TXT", "IIMWV", "PGRMZ", "QQQ"]
    ).warnings()
    assert [(doubt.path, str(doubt)) for doubt in doubts] == [
        (("types", 0), "no sentence is known as RCM; did you mean RMC?"),
        (("types", 2), "no sentence is known as GGGA; did you mean GGA?"),
        (("types", 3), "no sentence is known as GPGAA; did you mean GGA?"),
        (("types", 10), "no sentence is known as QQQ; a proprietary one begins with P, as PGRMZ"),
    ]
