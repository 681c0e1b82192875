"""What docs/serial.md says of Modbus, done as it stands there."""

import re
from pathlib import Path

from shaping import Event, program, run

from gateway.config import load

PAGE = (Path(__file__).parents[2] / "docs" / "serial.md").read_text()
SECTION = PAGE.partition("### Modbus RTU")[2].partition("\n## ")[0]


def test_the_meters_of_the_manual_are_asked_and_read_as_it_says(tmp_path):
    path = tmp_path / "tidegate.yaml"
    path.write_text("gateway: {id: g}\n" + re.search(r"```yaml\n(.*?)```", SECTION, re.DOTALL)[1])
    driver = load(path).drivers["meters"]
    options = driver.options
    question, answer, record, refusal, refused = map(bytes.fromhex, re.findall(r"`((?:[0-9A-F]{2} ?)+)`", SECTION))
    assert options.sealed(options.polls[0].send.raw) == question
    framer = options.framer()
    for said, kept in ((answer, record), (refusal, refused)):
        assert framer.feed(said) == []
        assert framer.flush() == [kept]

    schema = yaml_map(re.search(r"`schema: \{(.*?)\}`", SECTION)[1])
    made = program([{"emit": {name: name for name in schema}}], schema=schema, decoders={"in": driver.decode.plain()})
    out = run(made, [Event("meter/1", record), Event("meter/2", refused)])
    assert list(out.rows()[0].values()) == [
        float(n) for n in re.search(r"reads as ([\d.]+) and ([\d.]+)\.", SECTION).groups()
    ]
    assert out.letters() == [("decode", re.search(r"dead letter, `(.*?)`", SECTION.replace("\n", " "))[1])]


def yaml_map(text):
    return dict(part.split(": ") for part in text.split(", "))
