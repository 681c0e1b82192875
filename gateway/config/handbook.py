"""docs/config.md: the words between the tables that are made from the options themselves."""

import gateway.plugin
from gateway.config.load import Plugins
from gateway.config.model import DriverKeys, GatewayOptions, LogSettings, SinkKeys, StreamKeys
from gateway.config.reference import Option, entry, options

TOP = """\
# The configuration

One file, `/etc/tidegate/tidegate.yaml`, checked as a whole before anything starts:

    tidegate check

prints every problem of one run as `file:line:column: path: what is wrong, and what to try`, and exits with 78. What is
legal and yet may not be what you meant is told as `warning: …` in the same form, here and at every start. Another
file is named by `tidegate check FILE`, by `-c FILE` for every command, or by `$TIDEGATE_CONFIG` in the environment.
`tidegate plugins NAME` shows on the spot what stands here. This page is made from the options' own types by
`tidegate plugins --markdown`.

```yaml
# yaml-language-server: $schema=tidegate.schema.json
gateway: {id: greenhouse-7}
log: {size: 2GiB}
drivers:
  sensors: {driver: mqtt, url: "mqtt://localhost:1883", subscribe: ["site/+/temp"], stream: temps}
sinks:
  cloud: {sink: mqtt, url: "mqtts://broker.example:8883", topic: "gw/{gateway}/{stream}", streams: [temps]}
```

`tidegate schema config > tidegate.schema.json` makes the schema that the first line tells an editor with the YAML
language server to complete and check by.

## How it is written

- YAML 1.2: only `true` and `false` are booleans. `on`, `off`, `yes`, `NO`, dates and `1:30` are text; `010` is ten.
- Durations and sizes have units: `250ms`, `10s`, `5m`, `2h`, `7d`; `100KiB`, `512MiB`, `2GiB`, `500MB`; a
  rate is a size per day or hour: `300MB/day`, `20MB/h`.
- An option is named as it is shown here. What is unknown or given twice is a mistake. `name:` with nothing behind it
  says as much as no line.
- Anchors, aliases, merge keys and tags are refused; so are files of more than 1 MiB or 32 levels. `include:` splits.
- `${NAME}` is filled in from the environment, `${NAME:-default}` also where there is none; `$${` is `${` itself. It is
  filled in after the YAML was read, so a value from outside is always a value. Inside `{ }` and `[ ]` it needs quotes:
  `{id: "${HOSTNAME}"}`. `HOSTNAME` is always there.
- A secret is never written inline. An option `x_file: PATH` names a file that holds it, `x_credential: NAME` instead a
  systemd credential (`LoadCredential=NAME:PATH`).
- A relative path is looked up beside the file it is written in.
- Names of entries are letters, digits, `-`, `_` and `.`. Streams that begin with `_` are the house's own: `_dead` and
  `_metrics`.

## `include:`

A list of files or globs, relative to the file: `include: [pipelines/*.yaml]`. An included file may hold `drivers:`,
`streams:`, `pipelines:` and `sinks:`; entries of one name in two files are a mistake. A glob may match nothing.
`recipe:NAME` is a file that comes with the gateway: pipelines for what [Zigbee2MQTT, Tasmota, Shelly, ESPHome
and Home Assistant](recipes.md) say.
"""
DRIVERS = "A map from a name of yours to a source. `driver:` says which kind; the other options are that driver's."
DECODERS = """\
How the payloads of a stream are read, said where it comes in or in `streams:`. A name is enough where nothing must be
told: `decode: number`. Options stand below the name: `decode: {csv: {columns: [ts, v]}}`.
"""
STREAMS = """\
A stream is there as soon as a driver feeds it or a pipeline emits to it. It is listed to say something about it.
Two drivers may feed one stream if their payloads are read alike.

Two streams are the house's own. `_dead` has what could not be processed or delivered, and why. `_metrics` has the
gateway's own numbers, for gateways that cannot be scraped: recorded every `gateway.metrics_every`, and only where a
pipeline reads it (`from: _metrics`) or a sink delivers it. Each number is a record with the key
`tidegate_lag_records{reader=sink:cloud,stream=temps}` and the value
`{"name":"tidegate_lag_records","value":12,"reader":"sink:cloud","stream":"temps"}`; counters are totals since the
start.
"""
PIPELINES = """\
A map from a name of yours to a pipeline: `from:` one or several streams, through `steps:`, `to:` others. Pipelines may
read what others emit, but not in a circle. Each step is a map with one key, its kind. [The language](language.md) says
what expressions can.
"""
SINKS = """\
A map from a name of yours to a destination. `sink:` says which kind; the other options are that sink's. Its position in
each stream belongs to its name and survives every edit.
"""


def markdown(plugins: Plugins = gateway.plugin) -> str:
    """docs/config.md."""
    parts = [
        *(TOP, "## `gateway:`", _table(GatewayOptions), "## `log:`", _table(LogSettings)),
        *("## `drivers:`", DRIVERS, _table(DriverKeys), *_family("drivers", plugins)),
        *("## `decode:`", DECODERS, *_family("decoders", gateway.plugin)),
        *("## `streams:`", STREAMS, _table(StreamKeys)),
        *("## `pipelines:`", PIPELINES, _rows(_pipeline(plugins)), *_family("steps", plugins)),
        *("## `sinks:`", SINKS, _table(SinkKeys), *_family("sinks", plugins)),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


_HEADS = {"steps": "### `{}:`", "decoders": "### `decode: {}`"}


def _family(family: str, plugins: Plugins) -> list[str]:
    """A section for each plugin of a family."""
    parts = []
    for name in plugins.names(family):
        one = entry(family, name, plugins)
        parts += [_HEADS.get(family, f"### `{family[:-1]}: {{}}`").format(name), one.summary]
        parts += [_rows(one.options)] if one.options else []
        parts += [f"```yaml\n{one.example}\n```"] if one.example else []
    return parts


def _pipeline(plugins: Plugins) -> tuple[Option, ...]:
    """The options of a pipeline. What it reads must be given, although its type leaves saying so to the compiler."""
    rows = options(plugins.definition())
    return tuple(row._replace(default=None) if row.name == "from" else row for row in rows)


def _table(kind: type) -> str:
    return _rows(tuple(options(kind)))


def _rows(rows: tuple[Option, ...]) -> str:
    lines = ["| option | type | default | |", "|---|---|---|---|"]
    for row in rows:
        kind = ", ".join(fact for fact in (row.kind, row.limits) if fact)
        shown = "**required**" if row.default is None else f"`{row.default}`" if row.default else ""
        name = row.name if row.name.startswith("(") else f"`{row.name}`"
        lines.append(f"| {name} | {_cell(kind)} | {_cell(shown)} | {_cell(row.text)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
