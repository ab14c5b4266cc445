"""etcd without the driver."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any

import pytest


class Etcd:
    """The JSON gateway, asked in a thread; texts instead of base64."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def ask(self, call: str, **request: Any) -> Any:
        return await asyncio.to_thread(self._ask, call, request)

    def _ask(self, call: str, request: Any) -> Any:
        body = json.dumps(request).encode()
        url = f"http://{self.address}/v3/{call}"
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=10) as response:
            return json.loads(response.read())

    async def put(self, key: str, value: str) -> int:
        """The revision that it made."""
        answer = await self.ask("kv/put", key=b64(key), value=b64(value))
        return int(answer["header"]["revision"])

    async def delete(self, key: str) -> None:
        await self.ask("kv/deleterange", key=b64(key))

    async def pair(self, key: str) -> Any:
        """A key's value as text, its lease and its versions; an empty one for none."""
        [found] = (await self.ask("kv/range", key=b64(key))).get("kvs") or [{}]
        return {**found, "value": b64decode(found["value"]).decode()} if found else {}

    async def below(self, folder: str) -> list[Any]:
        """The pairs whose keys begin with ``folder``, a text that ends in ``/``."""
        answer = await self.ask("kv/range", key=b64(folder), range_end=b64(folder[:-1] + "0"))
        return list(answer.get("kvs", ()))

    async def clear(self, folder: str) -> None:
        await self.ask("kv/deleterange", key=b64(folder), range_end=b64(folder[:-1] + "0"))

    async def leases(self) -> set[str]:
        answer = await self.ask("lease/leases")
        return {each["ID"] for each in answer.get("leases", ())}


def b64(text: str) -> str:
    return b64encode(text.encode()).decode()


@pytest.fixture
def etcd_at() -> Callable[[str], Etcd]:
    return Etcd


@pytest.fixture
def etcd(server_address: Callable[[str], str]) -> Etcd:
    """An etcd that no test breaks."""
    return Etcd(server_address("etcd"))
