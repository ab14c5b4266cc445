"""A node of the service `worker`; what it answers says which process it was."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from micro_core import Service


@dataclass
class Work:
    number: int
    seconds: float = 0.0


@dataclass
class Done:
    number: int
    pid: int


class Worker:
    async def work(self, request: Work) -> Done:
        if request.seconds:
            await asyncio.sleep(request.seconds)
        return Done(request.number, os.getpid())


service = Service("worker", version="1.0.0")
service.handle(Worker())

if __name__ == "__main__":
    service.run()
