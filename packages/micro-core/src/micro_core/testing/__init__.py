"""For tests of what is built on micro_core: no server, no port, no waiting, no test framework.

    async with testing.running(service) as client:
        reply = await client.call("greeter", "Say.Hello", HelloRequest("John"), HelloReply)
    assert reply.greeting == "Hello John"

``running`` starts services on memory plugins of their own. ``clock`` moves the time of the loop.
``RecordingClient`` stands in for a Client and answers what a test has scripted.
"""

from __future__ import annotations

from .client import Called, RecordingClient
from .clock import Clock, clock
from .services import Published, ServiceClient, running

__all__ = [
    "Called",
    "Clock",
    "Published",
    "RecordingClient",
    "ServiceClient",
    "clock",
    "running",
]
