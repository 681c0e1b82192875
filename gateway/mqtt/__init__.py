"""The one way the house talks MQTT: transport and MQTT 5 for the driver and the sink.

options   where a broker is and how to log in
tls       whom we trust and who we are
trouble   what goes wrong, in words that say what to try
frames    bytes in, packets out; hostile bytes stay inside
link      one connection: hello, keepalive, pause, and the sleep until reading pays
filters   which topics belong to which stream
window    how many messages a broker sends before it waits for us
session   what was received, and whether it comes again
announce  the gateway's own status at the broker, and the last will
"""

from gateway.mqtt.announce import STATUS_ID, Announcer
from gateway.mqtt.filters import NOWHERE, Router, filter_problem, matches, shared
from gateway.mqtt.frames import Frames, Spoilt
from gateway.mqtt.link import Link, Owner, connect
from gateway.mqtt.options import BrokerOptions
from gateway.mqtt.session import Session
from gateway.mqtt.trouble import LinkLost, refused, words
from gateway.mqtt.window import Window

__all__ = [
    "NOWHERE",
    "STATUS_ID",
    "Announcer",
    "BrokerOptions",
    "Frames",
    "Link",
    "LinkLost",
    "Owner",
    "Router",
    "Session",
    "Spoilt",
    "Window",
    "connect",
    "filter_problem",
    "matches",
    "refused",
    "shared",
    "words",
]
