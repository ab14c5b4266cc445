"""mucp keeps every promise of protocols, over memory and over HTTP."""

from __future__ import annotations

from micro_conformance import RpcSuite
from micro_core import Transport
from micro_core.client.base import RpcClient
from micro_core.client.mucp import MucpClient
from micro_core.server.base import RpcServer
from micro_core.server.mucp import MucpServer
from micro_core.transport.http import HttpTransport


class TestMucpOverMemory(RpcSuite):
    variant = "memory"
    jumping = True

    def make_client(self, transport: Transport) -> RpcClient:
        return MucpClient(transport=transport)

    def make_server(self, transport: Transport) -> RpcServer:
        return MucpServer(transport=transport)


class TestMucpOverHttp(TestMucpOverMemory):
    variant = "http"
    jumping = False

    def make_transport(self, address: str) -> Transport:
        return HttpTransport()
