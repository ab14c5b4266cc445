"""Protocols with one fault each: mucp over memory, with what is built on it."""

from . import calls, ends, errors, leaving, ontop, streams

__all__ = ["calls", "ends", "errors", "leaving", "ontop", "streams"]
