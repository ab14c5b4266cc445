"""The greeter: one call, one stream.

python service.py                                                  # the embedded default
python service.py --registry=consul --registry_address=127.0.0.1:8500
MICRO_REGISTRY=consul python service.py
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from messages import CountReply, CountRequest, HelloReply, HelloRequest

from micro_core import Service


class Say:
    async def hello(self, request: HelloRequest) -> HelloReply:
        return HelloReply(greeting=f"Hello {request.name}")

    async def count(self, request: CountRequest) -> AsyncIterator[CountReply]:
        for number in range(1, request.upto + 1):
            yield CountReply(number)


service = Service("greeter", version="1.0.0")
service.handle(Say())

if __name__ == "__main__":
    service.run()
