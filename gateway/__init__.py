"""Tidegate: an event-streaming gateway for the edge. The house; it imports no plugin, it finds them by name."""

__version__ = "0.1.0"
