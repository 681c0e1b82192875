"""The face of a running gateway: HTTP on the status address. Light to import: the web libraries come with the first
connection.
"""

from gateway.status.server import NoStream, Source, Status

__all__ = ["NoStream", "Source", "Status"]
