"""What is written is what is read."""

from __future__ import annotations

import asyncio

import pytest

from micro_core import Endpoint, InvalidName, Node, Registry, ServiceInfo, Value

from ..promise import promise
from ..suite import Suite
from .lab import ENDPOINT, RegistryLab, ids


class Records(Suite[Registry]):
    @promise()
    async def test_a_record_comes_back_whole(self, lab: RegistryLab) -> None:
        """A service comes back with its version, nodes, addresses, metadata and endpoints."""
        registry = await lab.new()
        info = lab.info()
        info = info.with_nodes([lab.node(info.name, 1, zone="a", weight="3")])
        await registry.register(info)
        assert await registry.get_service(info.name) == [info]

    @promise()
    async def test_an_unknown_service_is_an_empty_list(self, lab: RegistryLab) -> None:
        """A name that nobody registered gives an empty list, not an error."""
        registry = await lab.new()
        assert await registry.get_service(lab.name()) == []

    @promise()
    async def test_another_client_sees_it(self, lab: RegistryLab) -> None:
        """What one client has registered, another one finds as soon as register has returned."""
        info = lab.info()
        writer, reader = await lab.new(), await lab.new()
        await writer.register(info)
        assert await reader.get_service(info.name) == [info]

    @promise()
    async def test_nodes_of_one_version_are_one_service(self, lab: RegistryLab) -> None:
        """Nodes registered one by one for the same version come back as one service."""
        registry, name = await lab.new(), lab.name()
        for number in (2, 1, 3):
            await registry.register(lab.info(name, nodes=[number]))
        [found] = await registry.get_service(name)
        assert [node.id for node in found.nodes] == [lab.node(name, n).id for n in (1, 2, 3)]

    @promise()
    async def test_several_nodes_in_one_registration(self, lab: RegistryLab) -> None:
        """One registration of several nodes makes all of them visible."""
        registry, info = await lab.new(), lab.info(nodes=[1, 2, 3])
        await registry.register(info)
        assert await registry.get_service(info.name) == [info]

    @promise()
    async def test_versions_are_told_apart(self, lab: RegistryLab) -> None:
        """Two versions of a service come back as two records, sorted, each with its nodes."""
        registry, name = await lab.new(), lab.name()
        newer = lab.info(name, nodes=[2], version="2.0.0")
        older = lab.info(name, nodes=[1], version="1.0.0")
        await registry.register(newer)
        await registry.register(older)
        assert await registry.get_service(name) == [older, newer]

    @promise()
    async def test_registering_again_changes_nothing(self, lab: RegistryLab) -> None:
        """The same registration again leaves one node, as it was."""
        registry, info = await lab.new(), lab.info()
        for _ in range(3):
            await registry.register(info)
        assert await registry.get_service(info.name) == [info]

    @promise()
    async def test_an_address_can_change(self, lab: RegistryLab) -> None:
        """A node registered again with another address has that one, and only that."""
        registry, info = await lab.new(), lab.info()
        await registry.register(info)
        moved = info.with_nodes([Node(info.nodes[0].id, "127.0.0.1:20000")])
        await registry.register(moved)
        assert await registry.get_service(info.name) == [moved]

    @promise()
    async def test_metadata_can_change(self, lab: RegistryLab) -> None:
        """A node registered again with other metadata has that, and none of the old keys."""
        registry, info = await lab.new(), lab.info()
        await registry.register(info.with_nodes([lab.node(info.name, 1, old="1")]))
        changed = info.with_nodes([lab.node(info.name, 1, new="2")])
        await registry.register(changed)
        assert await registry.get_service(info.name) == [changed]

    @promise()
    async def test_endpoints_can_change(self, lab: RegistryLab) -> None:
        """A node registered again with other endpoints has those, and none of the old ones."""
        registry, info = await lab.new(), lab.info()
        await registry.register(info)
        bye = Endpoint("Say.Bye", Value("Bye", "Bye"), None, {})
        changed = ServiceInfo(info.name, info.version, info.nodes, [bye])
        await registry.register(changed)
        assert await registry.get_service(info.name) == [changed]

    @promise()
    async def test_a_node_can_change_its_version(self, lab: RegistryLab) -> None:
        """A node registered again under another version is in that one only."""
        registry, name = await lab.new(), lab.name()
        await registry.register(lab.info(name, version="1.0.0"))
        await registry.register(lab.info(name, version="2.0.0"))
        found = await registry.get_service(name)
        assert [info.version for info in found] == ["2.0.0"]

    @promise()
    async def test_a_deregistered_node_is_gone(self, lab: RegistryLab) -> None:
        """A node is gone for everybody as soon as deregister has returned."""
        registry, other, info = await lab.new(), await lab.new(), lab.info()
        await registry.register(info)
        await registry.deregister(info)
        assert await registry.get_service(info.name) == []
        assert await other.get_service(info.name) == []

    @promise()
    async def test_one_of_several_can_go(self, lab: RegistryLab) -> None:
        """Deregistering one node leaves the others of its service alone."""
        registry, info = await lab.new(), lab.info(nodes=[1, 2, 3])
        await registry.register(info)
        await registry.deregister(info.with_nodes([lab.node(info.name, 2)]))
        assert await registry.get_service(info.name) == [
            info.with_nodes([info.nodes[0], info.nodes[2]])
        ]

    @promise()
    async def test_deregistering_goes_by_the_id(self, lab: RegistryLab) -> None:
        """A node is deregistered by its id, whatever else the record says."""
        registry, info = await lab.new(), lab.info()
        await registry.register(info)
        changed = Node(info.nodes[0].id, "127.0.0.1:1", {"other": "1"})
        await registry.deregister(ServiceInfo(info.name, info.version, [changed]))
        assert await registry.get_service(info.name) == []

    @promise()
    async def test_deregistering_an_unknown_node_is_harmless(self, lab: RegistryLab) -> None:
        """Deregistering what is not there raises nothing and removes nothing."""
        registry, info = await lab.new(), lab.info()
        await registry.register(info)
        await registry.deregister(info.with_nodes([lab.node(info.name, 7)]))
        await registry.deregister(lab.info())
        assert await registry.get_service(info.name) == [info]

    @promise()
    async def test_services_are_listed(self, lab: RegistryLab) -> None:
        """The list of services has each name that has a node once, sorted."""
        registry = await lab.new()
        names = sorted(lab.name() for _ in range(3))
        for name in reversed(names):
            await registry.register(lab.info(name, nodes=[1]))
            await registry.register(lab.info(name, nodes=[2], version="2.0.0"))
        found = await registry.list_services()
        assert [name for name in found if name.startswith(lab.prefix)] == names
        assert found == sorted(set(found))

    @promise()
    async def test_a_service_without_nodes_is_not_listed(self, lab: RegistryLab) -> None:
        """A service whose last node has gone is in no list."""
        registry, info = await lab.new(), lab.info()
        await registry.register(info)
        assert info.name in await registry.list_services()
        await registry.deregister(info)
        assert info.name not in await registry.list_services()

    @promise()
    async def test_names_that_begin_alike_are_two(self, lab: RegistryLab) -> None:
        """A service whose name begins with that of another is not mistaken for it."""
        registry, short = await lab.new(), lab.name()
        await registry.register(lab.info(short, nodes=[1]))
        await registry.register(lab.info(f"{short}-longer", nodes=[2]))
        assert ids(await registry.get_service(short)) == [lab.node(short, 1).id]
        await registry.deregister(lab.info(short, nodes=[1]))
        assert ids(await registry.get_service(f"{short}-longer")) == [
            lab.node(f"{short}-longer", 2).id
        ]

    @promise()
    async def test_names_that_differ_in_case_are_two(self, lab: RegistryLab) -> None:
        """Services whose names differ in the case of a letter are two."""
        registry, name = await lab.new(), lab.name()
        await registry.register(lab.info(name, nodes=[1]))
        assert await registry.get_service(name.upper()) == []

    @promise()
    async def test_usual_names_work(self, lab: RegistryLab) -> None:
        """Dots, dashes, underscores and digits in the name of a service are kept."""
        registry = await lab.new()
        for name in (f"{lab.prefix}.api.v1", f"{lab.prefix}_a-b.C9", f"go.micro.{lab.prefix}"):
            info = lab.info(name)
            await registry.register(info)
            assert await registry.get_service(name) == [info]
            assert name in await registry.list_services()

    @promise()
    async def test_impossible_names_are_refused(self, lab: RegistryLab) -> None:
        """A name that cannot be one raises InvalidName, and nothing is registered."""
        registry = await lab.new()
        for name in ("", " ", "a\nb", "a\x00b", "x" * 256, " padded "):
            with pytest.raises(InvalidName):
                await registry.register(ServiceInfo(name, "1", [Node("n", "127.0.0.1:1")]))
            with pytest.raises(InvalidName):
                await registry.get_service(name)

    @promise()
    async def test_any_text_in_metadata_is_kept(self, lab: RegistryLab) -> None:
        """Metadata keeps any printable text, empty values, quotes and other alphabets."""
        metadata = {
            "empty": "",
            "quotes": "\"'`\\",
            "json": '{"a": [1, null]}',
            "other": "grüße 你好 🙂",
            "equals": "a=b,c;d",
            "long": "x" * 2000,
        }
        registry = await lab.new()
        info = lab.info()
        info = info.with_nodes([Node(info.nodes[0].id, "127.0.0.1:1", metadata)])
        await registry.register(info)
        [found] = await registry.get_service(info.name)
        assert dict(found.nodes[0].metadata) == metadata

    @promise()
    async def test_addresses_of_every_form_are_kept(self, lab: RegistryLab) -> None:
        """Host names, IPv6 addresses and the names of queues are kept as addresses."""
        registry, name = await lab.new(), lab.name()
        addresses = ["node.example:80", "[::1]:9000", "10.0.0.7:65535", f"queue-{lab.prefix}"]
        nodes = [Node(f"{name}-{n}", address) for n, address in enumerate(addresses)]
        await registry.register(ServiceInfo(name, "1", nodes))
        [found] = await registry.get_service(name)
        assert [node.address for node in found.nodes] == addresses

    @promise()
    async def test_many_endpoints_are_kept(self, lab: RegistryLab) -> None:
        """A service of a hundred described endpoints comes back with all of them."""
        endpoints = [
            Endpoint(f"Big.Method{n:03}", ENDPOINT.request, ENDPOINT.response) for n in range(100)
        ]
        name = lab.name()
        info = ServiceInfo(name, "1", [lab.node(name)], endpoints)
        registry = await lab.new()
        await registry.register(info)
        [found] = await registry.get_service(info.name)
        assert sorted(e.name for e in found.endpoints) == [e.name for e in endpoints]

    @promise()
    async def test_many_at_once(self, lab: RegistryLab) -> None:
        """Fifty nodes registered at the same time by one client are all there."""
        registry, name = await lab.new(), lab.name()
        numbers = range(50)
        await asyncio.gather(*[registry.register(lab.info(name, nodes=[n])) for n in numbers])
        await lab.sees(registry, name, numbers)
        await asyncio.gather(*[registry.deregister(lab.info(name, nodes=[n])) for n in numbers])
        assert await registry.get_service(name) == []
