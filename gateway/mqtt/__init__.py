"""The one way the house talks MQTT: transport and protocol for the driver and the sink.

options   where a broker is and how to log in
tls       whom we trust and who we are
trouble   what goes wrong, in words that say what to try
codec     MQTT 5 and MQTT 3.1.1: packets to bytes and back
frames    bytes in, packets out; hostile bytes stay inside
link      one connection: hello, keepalive, pause, and the sleep until reading pays
websocket the same over ws:// and wss://
broker    connects again and again, and remembers which version is spoken
filters   which topics belong to which stream
window    how many messages a broker sends before it waits for us
session   what was received, and whether it comes again
announce  the gateway's own status at the broker, and the last will
"""

from gateway.mqtt.announce import STATUS_ID, Announcer
from gateway.mqtt.broker import Broker
from gateway.mqtt.codec import FIVE, THREE, Codec
from gateway.mqtt.filters import NOWHERE, Router, filter_problem, matches, shared
from gateway.mqtt.frames import Frames, Spoilt
from gateway.mqtt.link import Link, Owner
from gateway.mqtt.options import BrokerOptions
from gateway.mqtt.session import Session
from gateway.mqtt.trouble import LinkLost, refused, words
from gateway.mqtt.window import Window

__all__ = [
    "FIVE",
    "NOWHERE",
    "STATUS_ID",
    "THREE",
    "Announcer",
    "Broker",
    "BrokerOptions",
    "Codec",
    "Frames",
    "Link",
    "LinkLost",
    "Owner",
    "Router",
    "Session",
    "Spoilt",
    "Window",
    "filter_problem",
    "matches",
    "refused",
    "shared",
    "words",
]
