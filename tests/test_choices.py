"""Choosing plugins for a real service: what wins, what is kept, and what is said when it is wrong.

Every test runs a script with ``service.run()`` as a process. Distributions that nobody wrote are
folders on its path, with the metadata that an installation leaves.
"""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from places import PICKY, Place, memory, said
from scripts import Result


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# -- each way a choice goes wrong ------------------------------------------------------------


def install_wrong_ones(place: Place) -> None:
    place.install("twin-one", memory("registry", "twin"), "registry twin = Twin")
    place.install("twin-two", memory("registry", "twin"), "registry twin = Twin")
    place.install("broken-dist", "import missing_library", "registry broken = Broken")
    place.install("leaving-dist", "raise SystemExit(5)", "registry leaving = Leaving")
    place.install("empty-dist", "", "registry empty = Empty")
    place.install(
        "future-dist",
        memory("registry", "future"),
        "registry future = Future",
        requires=["something", "micro-core>=99,<100"],
    )
    place.install(
        "half-dist",
        """
        from micro_core import Registry

        class Half(Registry):
            name = "half"

            async def _register(self, info, ttl): ...
            async def _list_services(self): ...
        """,
        "registry half = Half",
    )
    place.install("selector-dist", memory("registry", "other"), "selector other = Other")
    place.install("function-dist", "def make(): ...", "registry function = make")
    place.install("picky-dist", PICKY, "registry picky = Picky")


@dataclass(frozen=True)
class Wrong:
    id: str
    flags: str
    error: str
    says: Sequence[str]
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    code: str = ""
    hides: str = "s3cret"


WRONG = [
    Wrong(
        "unknown name",
        "--registry=zebra",
        "PluginNotFound",
        ["no registry 'zebra' is installed", "Installed:", "local (micro-core 0."],
    ),
    Wrong("near miss", "--registry=locla", "PluginNotFound", ["Did you mean local?"]),
    Wrong(
        "known but not installed",
        "--broker=kafka",
        "PluginNotFound",
        [
            "no broker 'kafka' is installed",
            "kafka (Kafka) is in micro-broker-kafka, which is not installed:",
            "pip install --find-links dist micro-broker-kafka",
        ],
    ),
    Wrong(
        "near miss of what is not installed",
        "--broker=rabitmq",
        "PluginNotFound",
        ["Did you mean rabbitmq?", "pip install --find-links dist micro-broker-rabbitmq"],
    ),
    Wrong(
        "another kind's",
        "--registry=roundrobin",
        "PluginNotFound",
        ["roundrobin is a selector, not a registry."],
    ),
    Wrong(
        "two distributions with one name",
        "--registry=twin",
        "PluginConflict",
        [
            "2 distributions have a registry twin",
            "twin-one 1.0: --registry twin-one:twin",
            "twin-two 1.0: --registry twin-two:twin",
        ],
    ),
    Wrong(
        "import failure",
        "--registry=broken",
        "PluginLoadError",
        [
            "registry broken of broken-dist 1.0 cannot be imported from broken_dist:Broken",
            "ModuleNotFoundError: No module named 'missing_library'",
            "pip install --find-links dist --force-reinstall broken-dist",
        ],
    ),
    Wrong("import that exits", "--registry=leaving", "PluginLoadError", ["SystemExit: 5"]),
    Wrong(
        "import without the class",
        "--registry=empty",
        "PluginLoadError",
        ["empty-dist 1.0", "has no attribute 'Empty'"],
    ),
    Wrong(
        "incompatible core",
        "--registry=future",
        "PluginIncompatible",
        [
            "registry future of future-dist 1.0 needs micro-core>=99,<100, and this is micro-core",
            "pip install --find-links dist --upgrade micro-core future-dist",
        ],
    ),
    Wrong(
        "half of the interface",
        "--registry=half",
        "PluginIncomplete",
        ["half-dist 1.0 does not implement _deregister, _get_service", "Its author must mend"],
    ),
    Wrong(
        "a class of another kind",
        "--selector=other",
        "PluginIncomplete",
        ["is class Other, which is no subclass of micro_core.selector.base:Selector"],
    ),
    Wrong("no class", "--registry=function", "PluginIncomplete", ["is a function, not a class"]),
    Wrong(
        "unknown option of a plugin",
        "--registry=picky --registry_tokn=s3cret",
        "OptionError",
        [
            "unknown flag '--registry_tokn'",
            "Did you mean --registry_token?",
            "Flags of registry picky: --registry_address, --registry_token, --registry_wait",
        ],
    ),
    Wrong(
        "option of a plugin that is not chosen",
        "--registry=memory --registry_token=s3cret",
        "OptionError",
        ["unknown flag '--registry_token'", "Flags of registry memory: --registry_address"],
    ),
    Wrong(
        "unknown option of the core",
        "--server_nmae=x",
        "OptionError",
        ["unknown flag '--server_nmae'", "Did you mean --server_name?", "All flags: --help"],
    ),
    Wrong(
        "unknown kind",
        "--discovery=consul",
        "OptionError",
        ["unknown flag '--discovery'", "All flags: --help"],
    ),
    Wrong(
        "badly typed option of a plugin",
        "--registry=picky --registry_wait=soon",
        "OptionError",
        ["--registry_wait: 'soon' is not a number"],
    ),
    Wrong(
        "badly typed variable of a plugin",
        "--registry=picky",
        "OptionError",
        ["MICRO_REGISTRY_PORT: '1.5' is not a whole number"],
        {"MICRO_REGISTRY_PORT": "1.5"},
    ),
    Wrong(
        "badly typed option of the core",
        "--drain_delay=soon",
        "OptionError",
        ["--drain_delay: 'soon' is not a duration such as 250ms or 1m30s"],
    ),
    Wrong(
        "badly typed variable of the core",
        "",
        "OptionError",
        ["MICRO_GRACE: '-1s' is not a duration such as 250ms or 1m30s"],
        {"MICRO_GRACE": "-1s"},
    ),
    Wrong(
        "too small an option of the core",
        "--server_threads=0",
        "OptionError",
        ["--server_threads: '0' is not a whole number, at least 1"],
    ),
    Wrong(
        "no such choice", "--log_level=loud", "OptionError", ["is not one of debug, info, warning"]
    ),
    Wrong("a flag without its value", "--registry", "OptionError", ["--registry needs a value"]),
    Wrong(
        "what is no flag",
        "local",
        "OptionError",
        ["unexpected argument: 'local'", "--name value or --name=value"],
    ),
    Wrong(
        "a second value of a secret",
        "--registry=picky --registry_token a s3cret",
        "OptionError",
        ["unexpected argument: a second value for --registry_token"],
    ),
    Wrong(
        "bad address",
        "--registry=picky --registry_address=host:http",
        "OptionError",
        [
            "--registry_address: 'host:http' is not an address such as 127.0.0.1:7000",
            "a port up to 65535",
        ],
    ),
    Wrong(
        "bad address with a password",
        "--registry=picky",
        "OptionError",
        ["MICRO_REGISTRY_ADDRESS: the value is not an address", "number 2 of 2"],
        {"MICRO_REGISTRY_ADDRESS": "good:1,http://me:s3cret@host:99999"},
    ),
    Wrong(
        "bad address of the server",
        "--server_address=localhost:eighty",
        "OptionError",
        ["--server_address: 'localhost:eighty' is not an address such as 0.0.0.0:8080"],
    ),
    Wrong(
        "refused by the plugin",
        "--registry=picky --registry_wait=601",
        "OptionError",
        ["registry picky refuses its options: wait is more than 600 seconds"],
    ),
    Wrong(
        "a file that is not there",
        "--registry=picky",
        "OptionError",
        ["MICRO_REGISTRY_TOKEN_FILE: '/nowhere/token' cannot be read: No such file"],
        {"MICRO_REGISTRY_TOKEN_FILE": "/nowhere/token"},
    ),
    Wrong(
        "unknown name in a variable",
        "",
        "PluginNotFound",
        ["no registry 'zebra' is installed", "It was asked for by MICRO_REGISTRY."],
        {"MICRO_REGISTRY": "zebra"},
    ),
    Wrong(
        "unknown name in code",
        "",
        "PluginNotFound",
        ["no registry 'zebra' is installed"],
        code='registry="zebra"',
    ),
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.id)
def test_a_wrong_choice_is_one_error_with_its_remedy(place: Place, wrong: Wrong) -> None:
    install_wrong_ones(place)

    def run(*more: str) -> Result:
        flags = [*wrong.flags.split(), *more]
        return place.service(*flags, code=wrong.code, **wrong.variables)

    with ThreadPoolExecutor() as pool:
        plain, detailed = pool.submit(run), pool.submit(run, "--traceback")
        result, asked = plain.result(), detailed.result()
    assert result.code == 2, result
    assert result.out == ""
    assert result.on_one_screen(), result
    assert result.err.startswith("error: "), result
    assert "Traceback" not in result.err, result
    assert said(result, *wrong.says), result
    assert wrong.hides not in result.err, result

    assert asked.code == 2
    assert "Traceback (most recent call last):" in asked.err
    assert re.search(rf"^micro_core\.errors\.{wrong.error}: ", asked.err, re.MULTILINE), asked
    assert asked.err.endswith(result.err), "the same screen comes last"
    assert wrong.hides not in asked.err, asked


def test_what_does_not_fit_the_core_is_not_even_imported(place: Place) -> None:
    install_wrong_ones(place)
    assert place.service("--registry=future").code == 2
    assert place.imported() == []


@pytest.mark.parametrize("dist", ["twin-one", "twin-two"])
def test_the_remedy_of_a_conflict_works(place: Place, dist: str) -> None:
    install_wrong_ones(place)
    with place.start_service("--registry", f"{dist}:twin") as service:
        assert f"registry twin ({dist} 1.0)" in service.line(" started as ")
        assert service.stop() == 0
    assert place.imported() == [dist.replace("-", "_")]


def test_listing_imports_no_plugin(place: Place) -> None:
    install_wrong_ones(place)
    table = place.run("-m", "micro_core").ended_well().out
    rows = {tuple(line.split()[:4]): line for line in table.splitlines()}
    assert ("registry", "broken", "broken-dist", "1.0") in rows
    assert ("registry", "half", "half-dist", "1.0") in rows
    assert rows["registry", "future", "future-dist", "1.0"].endswith("needs micro-core>=99,<100")
    assert "twin-one:twin" in rows["registry", "twin", "twin-one", "1.0"]
    assert place.imported() == []


def test_of_all_plugins_only_the_chosen_are_imported(place: Place) -> None:
    install_wrong_ones(place)
    with place.start_service("--registry=picky") as service:
        service.line(" started as ")
        assert service.stop() == 0
    assert place.imported() == ["picky_dist"]


def test_a_distribution_that_is_half_removed_hides_no_other(place: Place) -> None:
    place.install("picky-dist", PICKY, "registry picky = Picky")
    place.install("ruin-dist", "", "registry ruin = Ruin")
    (place.packages / "ruin_dist-1.0.dist-info" / "METADATA").unlink()
    with place.start_service("--registry=picky") as service:
        service.line(" started as ")
        assert service.stop() == 0


# -- a server that cannot be had -------------------------------------------------------------


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Bound, so that nobody else takes it, and not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


needs_consul = pytest.mark.skipif(
    importlib.util.find_spec("micro_registry_consul") is None,
    reason="micro-registry-consul is not installed here",
)


@needs_consul
def test_a_server_that_is_down_is_exit_code_2(place: Place, closed_port: int) -> None:
    flags = ["--registry=consul", f"--registry_address=127.0.0.1:{closed_port}"]
    result = place.service(*flags)
    assert result.code == 2, result
    assert result.on_one_screen(), result
    assert "Traceback" not in result.err
    assert said(
        result,
        f"127.0.0.1:{closed_port}",
        "is its server up?",
        "--registry_address or MICRO_REGISTRY_ADDRESS",
        "the plugin by --registry",
    ), result
    asked = place.service("--traceback", *flags)
    assert asked.code == 2
    assert re.search(r"^micro_core\.errors\.BackendUnavailable: ", asked.err, re.MULTILINE), asked


@needs_consul
def test_a_server_that_is_silent_is_given_up_after_5_seconds(
    place: Place, silent_port: int
) -> None:
    begin = time.monotonic()
    result = place.service("--registry=consul", f"--registry_address=127.0.0.1:{silent_port}")
    taken = time.monotonic() - begin
    assert result.code == 2, result
    assert result.on_one_screen(), result
    assert "Traceback" not in result.err
    assert said(result, f"127.0.0.1:{silent_port}", "--registry_address"), result
    assert 3.0 < taken < 10.0, "the connect timeout of 5 s, and a process around it"


def test_an_address_in_use_is_exit_code_2(place: Place, silent_port: int) -> None:
    result = place.service(f"--server_address=127.0.0.1:{silent_port}")
    assert result.code == 2, result
    assert result.on_one_screen(), result
    assert "Traceback" not in result.err
    assert said(result, f"127.0.0.1:{silent_port}", "in use", "--server_address"), result
    assert "--transport" not in result.err, result
    assert place.record("chooser") == []


# -- what wins -------------------------------------------------------------------------------

KINDS = ("registry", "transport", "broker")
DEFAULTS = {"registry": "local", "transport": "http", "broker": "http"}


def chosen(line: str) -> dict[str, str]:
    return dict(re.findall(r"(\w+) (\w+) \([^)]*\)", line))


def test_a_flag_wins_over_a_variable_over_code_over_the_default(place: Place) -> None:
    for kind in KINDS:
        code = memory(kind, "first", "second")
        place.install(f"{kind}-dist", code, f"{kind} first = First", f"{kind} second = Second")
    code = ", ".join(f'{kind}="memory"' for kind in KINDS)
    variables = {f"MICRO_{kind.upper()}": "first" for kind in KINDS}
    flags = [f"--{kind}=second" for kind in KINDS]

    def started(*flags: str, code: str = "", **variables: str) -> dict[str, str]:
        with place.start_service(*flags, code=code, **variables) as service:
            line = service.line(" started as ")
            assert service.stop() == 0, service.lines
        found = chosen(line)
        return {kind: found[kind] for kind in KINDS}

    assert started() == DEFAULTS
    assert started(code=code) == dict.fromkeys(KINDS, "memory")
    assert started(code=code, **variables) == dict.fromkeys(KINDS, "first")
    assert started(*flags, code=code, **variables) == dict.fromkeys(KINDS, "second")
    assert started(*flags) == dict.fromkeys(KINDS, "second")
    # each kind by itself
    assert started("--registry=second", code='broker="memory"', MICRO_TRANSPORT="first") == {
        "registry": "second",
        "transport": "first",
        "broker": "memory",
    }


def test_options_of_the_service_have_the_same_order(place: Place) -> None:
    def version(*flags: str, code: str = "", **variables: str) -> str:
        script = f'from micro_core import Service\nService("chooser"{code}).run()'
        with place.start(place.write("plain.py", script), *flags, **variables) as service:
            name, version = service.line(" started as ").split("micro: ")[1].split()[:2]
            assert service.stop() == 0
        assert name == "chooser"
        return version

    code = ', version="code"'
    assert version() == "latest"
    assert version(code=code) == "code"
    assert version(code=code, MICRO_SERVER_VERSION="variable") == "variable"
    assert version("--server-version", "flag", code=code, MICRO_SERVER_VERSION="x") == "flag"
    assert version(code=code, MICRO_SERVER_VERSION="") == "code"


def test_where_a_service_is_comes_from_its_flags(place: Place) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = [
        "--server_name=renamed",
        "--server_id=7",
        f"--server_address=127.0.0.1:{port}",
        f"--server_advertise=localhost:{port}",
        "--server_metadata=zone=z1,rack=4",
    ]
    with place.start_service(*flags) as service:
        assert f"renamed 1.0.0 started as renamed-7 at localhost:{port}" in service.line("started")
        (info,) = place.record("renamed")
        assert place.record("chooser") == []
        (node,) = info.nodes
        assert (node.id, node.address) == ("renamed-7", f"localhost:{port}")
        assert {"zone": "z1", "rack": "4"}.items() <= node.metadata.items()
        assert place.ask("renamed") == {"greeting": "Hello John"}
        assert service.stop() == 0
        assert "renamed stopped" in service.lines[-1]
    assert place.record("renamed") == []


def test_the_help_shows_the_options_of_the_chosen_plugins(place: Place) -> None:
    place.install("picky-dist", PICKY, "registry picky = Picky")
    for result in (
        place.service("--registry=picky", "--help"),
        place.service("-h", MICRO_REGISTRY="picky"),
        place.service("--help", code='registry="picky"'),
    ):
        text = result.ended_well().out
        assert result.err == ""
        assert text.startswith("usage: chooser.py ")
        assert re.search(r"--registry +one of .*picky.* \[picky\]", " ".join(text.split()))
        assert re.search(r"--registry_token +what the server asks for; a secret\n", text)
        assert re.search(r"--registry_address +.*\[127\.0\.0\.1:7000\]", " ".join(text.split()))
        assert "--server_name" in text
        assert "--transport_max_body" in text
        assert max(map(len, text.splitlines())) <= 100
    assert "--registry_token" not in place.service("--help").ended_well().out


def test_the_help_of_a_wrong_choice_says_what_is_wrong(place: Place) -> None:
    text = place.service("--registry=zebra", "--help").ended_well().out
    assert "no registry 'zebra' is installed" in " ".join(text.split())
    assert "--server_name" in text


def test_variables_of_others_are_left_alone_and_a_near_miss_is_told(place: Place) -> None:
    variables = {
        "MICRO_SERVICE_HOST": "10.0.0.1",  # Kubernetes, for a service called micro
        "MICRO_PORT": "tcp://10.0.0.1:80",
        "MICRO_SOMETHING_ELSE": "x",
        "MICRO_REGISTRY_ADRESS": "127.0.0.1:1",
    }
    with place.start_service(**variables) as service:
        service.line(" started as ")
        assert service.stop() == 0
        told = [line for line in service.lines if "is not used" in line]
        assert len(told) == 1
        assert "MICRO_REGISTRY_ADRESS is not used: did you mean MICRO_REGISTRY_ADDRESS?" in told[0]


# -- nothing set in code is lost -------------------------------------------------------------

FULL = """
import asyncio
import json
from micro_core import Client, Endpoint, Service
from micro_core.context import current

service = Service("kept", version="2.1.0", id="7", metadata={"team": "x"}, ttl=12.0)
received = asyncio.Queue()
ran = []


class Say:
    async def hello(self, request: dict[str, str]) -> dict[str, str]:
        return {"greeting": "Hello " + request["name"]}


service.handle(Say())


@service.endpoint("Say.Bye")
async def bye(request: dict[str, str]) -> dict[str, str]:
    return {"greeting": "Bye " + request["name"]}


@service.subscribe("greetings", queue="kept")
async def mail(greeting: dict[str, str]) -> None:
    await received.put(greeting)


@service.before_start
async def before() -> None:
    ran.append("before_start")


@service.after_start
async def after() -> None:
    ran.append("after_start")
    parts = service.running.parts
    (info,) = await parts.registry.get_service("kept")
    node = info.nodes[0]
    answers = [
        await service.client.call("kept", f"Say.{name}", {"name": "John"}, timeout=5.0)
        for name in ("Hello", "Bye")
    ]
    await service.client.publish("greetings", {"text": "hi"})
    async with asyncio.timeout(5.0):
        event = await received.get()
    print("TOLD", json.dumps({
        "name": info.name,
        "version": info.version,
        "id": node.id,
        "endpoints": [endpoint.name for endpoint in info.endpoints],
        "metadata": dict(node.metadata),
        "answers": answers,
        "event": event,
        "ran": ran,
    }), flush=True)


@service.before_stop
def stopping() -> None:
    print("HOOK before_stop", flush=True)


@service.after_stop
async def stopped() -> None:
    print("HOOK after_stop", flush=True)


if __name__ == "__main__":
    service.run()
"""
OTHERS = """
    from micro_core.client.mucp import MucpClient
    from micro_core.server.mucp import MucpServer

    class OtherClient(MucpClient):
        name = "other"

    class OtherServer(MucpServer):
        name = "other"
"""


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--registry=memory",
        "--transport=memory",
        "--broker=memory",
        "--selector=roundrobin",
        "--codec=json",
        "--server=mucp --client=mucp",
        "--server=other --client=other",
        "--registry=memory --transport=memory --broker=memory --server=other --client=other",
    ],
    ids=lambda flags: flags or "nothing chosen",
)
def test_no_choice_loses_what_code_has_set(place: Place, flags: str) -> None:
    place.install("other-dist", OTHERS, "client other = OtherClient", "server other = OtherServer")
    with place.start(place.write("full.py", FULL), *flags.split()) as service:
        told = json.loads(service.line("TOLD ").removeprefix("TOLD "))
        service.line(" started as ")
        assert service.stop() == 0
        assert service.line("HOOK before_stop")
        assert service.line("HOOK after_stop")
    given = dict(flag.removeprefix("--").split("=") for flag in flags.split())
    assert told == {
        "name": "kept",
        "version": "2.1.0",
        "id": "kept-7",
        "endpoints": ["Say.Bye", "Say.Hello"],
        "metadata": {
            "team": "x",
            "registry": given.get("registry", "local"),
            "transport": given.get("transport", "http"),
            "broker": given.get("broker", "http"),
            "server": given.get("server", "mucp"),
            "protocol": given.get("server", "mucp"),
        },
        "answers": [{"greeting": "Hello John"}, {"greeting": "Bye John"}],
        "event": {"text": "hi"},
        "ran": ["before_start", "after_start"],
    }


def test_an_object_in_code_keeps_its_options_under_a_new_address(place: Place) -> None:
    place.install(
        "owned-dist",
        """
        from micro_core import Secret
        from micro_core.registry.memory import MemoryRegistry

        class Owned(MemoryRegistry):
            name = "owned"
            default_address = "127.0.0.1:7000"

            def __init__(self, *addresses: str, token: Secret | None = None, wait: float = 1.0):
                super().__init__(*addresses)
                self.token, self.wait = token, wait
        """,
        "registry owned = Owned",
    )
    script = """
from micro_core import Secret, Service
from owned_dist import Owned

service = Service("owner", registry=Owned("10.0.0.1:1", token=Secret("t"), wait=3.0))

@service.after_start
def tell() -> None:
    one = service.running.parts.registry
    token = one.token.reveal() if getattr(one, "token", None) else None
    print("TOLD", one.name, *one.addresses, token, getattr(one, "wait", None), flush=True)

service.run()
"""
    path = place.write("owner.py", script)

    def told(*flags: str, **variables: str) -> str:
        with place.start(path, *flags, **variables) as service:
            line = service.line("TOLD ").removeprefix("TOLD ")
            assert service.stop() == 0
        return line

    assert told() == "owned 10.0.0.1:1 t 3.0"
    assert told("--registry_address=10.0.0.2:2") == "owned 10.0.0.2:2 t 3.0"
    assert told(MICRO_REGISTRY_WAIT="5") == "owned 10.0.0.1:1 t 5.0"
    assert told("--registry=owned") == "owned 10.0.0.1:1 t 3.0"
    assert told("--registry=memory").startswith("memory ")
    assert told("--registry=memory").endswith(" None None"), "it takes none of the options"
