"""One file, checked as a whole: `load(path)` gives a Config, or every problem at its line and column.

marks     YAML in which every value remembers its place
convert   options from marked YAML, every mistake of every field
model     what the file says, as types with limits and defaults
load      files and includes, plugins, pipelines, streams, sinks: the steps from a path to a Config
changes   what differs between two configurations
schema    the same as JSON Schema, for editors
reference the same as text, for people
"""

from gateway.config.changes import LIVE, Changes, changes, urgent_streams
from gateway.config.load import Plugins, load, load_pipelines
from gateway.config.model import (
    BatchOptions,
    Config,
    DriverEntry,
    GatewayOptions,
    Keep,
    LogSettings,
    PipelineEntry,
    SinkEntry,
    Start,
    StatusOptions,
    StreamEntry,
    Workshop,
)

__all__ = [
    "LIVE",
    "BatchOptions",
    "Changes",
    "Config",
    "DriverEntry",
    "GatewayOptions",
    "Keep",
    "LogSettings",
    "PipelineEntry",
    "Plugins",
    "SinkEntry",
    "Start",
    "StatusOptions",
    "StreamEntry",
    "Workshop",
    "changes",
    "load",
    "load_pipelines",
    "urgent_streams",
]
