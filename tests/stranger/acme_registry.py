"""Acme's registry: the services of one machine in one SQLite file."""

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from micro_core import BackendUnavailable, Registry, ServiceInfo
from micro_core.registry.base import RegistryFeatures
from micro_core.registry.wire import from_json, to_json

TABLE = "create table if not exists nodes (service, id, expires, record, primary key (service, id))"


class AcmeRegistry(Registry):
    """The file at the address is made when it is missing.

    patience: seconds to wait while another process writes
    """

    name = "acme"
    reach = "host"
    default_address = "~/.acme-registry"
    features = RegistryFeatures(expiry=True, survives_restart=True)

    def __init__(self, *addresses: str, patience: float = 2.0) -> None:
        super().__init__(*addresses)
        self._patience = patience

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        await self._sql("delete from nodes where expires <= ?", time.time())
        for node in info.nodes:
            row = info.name, node.id, time.time() + ttl, to_json(info.with_nodes([node]))
            await self._sql("insert or replace into nodes values (?, ?, ?, ?)", *row)

    async def _deregister(self, info: ServiceInfo) -> None:
        for node in info.nodes:
            await self._sql("delete from nodes where (service, id) = (?, ?)", info.name, node.id)

    async def _get_service(self, name: str) -> Sequence[ServiceInfo]:
        query = "select record from nodes where service = ? and expires > ?"
        return [from_json(record) for record in await self._sql(query, name, time.time())]

    async def _list_services(self) -> Sequence[str]:
        return await self._sql("select service from nodes where expires > ?", time.time())

    async def _sql(self, statement: str, *values: str | float) -> list[str]:
        def run() -> list[str]:
            path = Path(self.addresses[0]).expanduser()
            with closing(sqlite3.connect(path, self._patience)) as file, file:
                file.execute(TABLE)
                return [row[0] for row in file.execute(statement, values)]

        try:
            return await asyncio.to_thread(run)
        except sqlite3.Error as error:
            raise self._failure(BackendUnavailable, str(error), error) from error
