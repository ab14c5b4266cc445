"""From built wheels to calls between processes, outside the repository, with nothing else there."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import json
import re
import secrets
import shutil
import sys
import textwrap
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scripts import Result, Script, environment, finish

from micro_core import BackendUnavailable, Endpoint, Node, Registry, ServiceInfo

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
STRANGER = ROOT / "tests" / "stranger"
STRANGERS_FILES = ("pyproject.toml", "acme_registry.py")

pytestmark = pytest.mark.timeout(400)  # the first of these builds, and asks the index


# -- what the tests have in common -----------------------------------------------------------


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every package as a wheel and as an sdist, by the backend that hatch and pip call."""
    folder = tmp_path_factory.mktemp("dist")
    for package in PACKAGES:
        command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
        finish(command, environment(folder), package, 120).ended_well()
    return folder


@dataclass(frozen=True)
class Venv:
    """An environment that holds nothing of the repository but its wheels."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def run(self, *arguments: str | Path, **variables: str) -> Result:
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        return finish([self.python, *arguments], environment(home, **variables), home, 300)

    def pip(self, *arguments: str | Path) -> Result:
        return self.run("-m", "pip", "--disable-pip-version-check", *arguments).ended_well()


@pytest.fixture(scope="session")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Venv:
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=True, symlinks=True)
    installed = Venv(folder)
    installed.pip("install", "--find-links", dist, "micro-core", "micro-registry-consul")
    return installed


@pytest.fixture(scope="session")
def stranger(installed: Venv, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The stranger's registry, installed beside ours from a directory of its own."""
    folder = tmp_path_factory.mktemp("acme")
    for name in STRANGERS_FILES:
        shutil.copy(STRANGER / name, folder)
    return installed.pip("install", folder)


def readme_block(first: str) -> str:
    """The block of Python in the README that begins with ``first``."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    found = [block for block in blocks if block.startswith(first)]
    assert len(found) == 1, f"one block of README.md begins with {first!r}"
    return str(found[0])


def replaced(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


class Story:
    """The README's greeter and caller in a directory of their own, run with one way to choose."""

    def __init__(self, installed: Venv, folder: Path, name: str = "greeter") -> None:
        self.installed, self.folder, self.name = installed, folder, name
        self.greeter = replaced(readme_block("# greeter.py"), '"greeter"', f'"{name}"')
        self.caller = (
            "import asyncio\n\nfrom micro_core import Client\n\n"
            "from greeter import HelloReply, HelloRequest\n\n\nasync def main():\n"
            + textwrap.indent(readme_block("async with Client() as client:"), "    ")
            + "    print(reply.greeting)\n\n\nasyncio.run(main())\n"
        )
        self.caller = replaced(self.caller, '"greeter"', f'"{name}"')
        self.flags: list[str] = []
        self.variables: dict[str, str] = {}
        self.callers_variables: dict[str, str] = {}

    def choose(self, way: str, plugin: Plugin) -> None:
        variables = {"MICRO_REGISTRY": plugin.name}
        if plugin.address:
            variables["MICRO_REGISTRY_ADDRESS"] = plugin.address
        if way == "in code":
            given = f", registry={plugin.code})"
            self.greeter = f"{plugin.imports}\n" + replaced(
                self.greeter, 'version="1.0.0")', f'version="1.0.0"{given}'
            )
            self.caller = f"{plugin.imports}\n" + replaced(
                self.caller, "Client()", f"Client({given[2:]}"
            )
        elif way == "by variable":
            self.variables = self.callers_variables = variables
        else:
            self.flags = [
                f"--{name.removeprefix('MICRO_').lower()}={value}"
                for name, value in variables.items()
            ]
            self.callers_variables = variables  # a client reads no flags

    def serve(self) -> Script:
        (self.folder / "greeter.py").write_text(self.greeter)
        return Script(
            [self.installed.python, "greeter.py", *self.flags],
            environment(self.folder, **self.variables),
            self.folder,
        )

    def call(self) -> Result:
        (self.folder / "caller.py").write_text(self.caller)
        environ = environment(self.folder, **self.callers_variables)
        return finish([self.installed.python, "caller.py"], environ, self.folder)


@dataclass(frozen=True)
class Plugin:
    name: str
    origin: str
    imports: str
    code: str
    address: str = ""


LOCAL = Plugin("local", "micro-core 0.1.0", "", '"local"')
ACME = Plugin(
    "acme", "acme-registry 1.0.0", "from acme_registry import AcmeRegistry", "AcmeRegistry()"
)
WAYS = ["by flag", "by variable", "in code"]


def tell(story: Story, plugin: Plugin) -> None:
    """Serve, call from another process, stop."""
    with story.serve() as greeter:
        line = greeter.line(" started as ")
        assert f"{story.name} 1.0.0 started as {story.name}-" in line
        assert f"registry {plugin.name} ({plugin.origin})" in line
        assert story.call().ended_well().out == "Hello John\n"
        assert greeter.stop() == 0, greeter.lines
        assert f"{story.name} stopped" in greeter.lines[-1]


# -- the wheels ------------------------------------------------------------------------------


def wheels(dist: Path) -> Iterator[tuple[Path, list[str]]]:
    for package in PACKAGES:
        name = package.name.replace("-", "_")
        (wheel,) = dist.glob(f"{name}-*.whl")
        with zipfile.ZipFile(wheel) as file:
            yield package, file.namelist()


def test_a_wheel_has_all_modules_types_and_the_licence_and_no_tests(dist: Path) -> None:
    for package, names in wheels(dist):
        code = {str(path.relative_to(package / "src")) for path in package.glob("src/*/**/*.py")}
        own = package.name.replace("-", "_")
        assert f"{own}/py.typed" in names
        assert code <= set(names)
        assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]
        others = [name for name in names if not name.startswith((f"{own}/", f"{own}-"))]
        assert others == []
        assert [name for name in names if "test" in Path(name).parts or "tests" in name] == []


def test_every_package_is_an_sdist_too(dist: Path) -> None:
    names = {path.name.rsplit("-", 1)[0] for path in dist.glob("*.tar.gz")}
    assert names == {package.name.replace("-", "_") for package in PACKAGES}


def test_what_is_installed_fits_together(installed: Venv, stranger: Result) -> None:
    assert installed.pip("check").out == "No broken requirements found.\n"


@pytest.mark.usefixtures("stranger")
def test_what_is_installed_is_what_was_built(installed: Venv, dist: Path) -> None:
    """And not somebody else's package of the same name from the index."""
    (wheel,) = dist.glob("micro_core-*.whl")
    shown = installed.run("-c", "import micro_core; print(micro_core.__file__)").ended_well()
    packages = Path(shown.out.strip()).parents[1]
    assert packages.is_relative_to(installed.folder)
    with zipfile.ZipFile(wheel) as file:
        code = [name for name in file.namelist() if name.endswith(".py")]
        assert [name for name in code if (packages / name).read_bytes() != file.read(name)] == []


def test_plugins_are_listed_with_their_versions(installed: Venv) -> None:
    table = installed.run("-m", "micro_core").ended_well().out
    rows = {tuple(line.split()[:4]) for line in table.splitlines()}
    assert ("registry", "consul", "micro-registry-consul", "0.1.0") in rows
    assert ("registry", "local", "micro-core", "0.1.0") in rows
    assert ("transport", "http", "micro-core", "0.1.0") in rows


def test_neither_listing_nor_import_imports_what_plugins_need(installed: Venv) -> None:
    code = """
import sys
import micro_core
heavy = {"aiohttp", "msgspec", "httptools", "micro_registry_consul", "argparse", "json"}
print(sorted(heavy & set(sys.modules)))
from micro_core.__main__ import table
assert "consul" in table()
print(sorted(heavy - {"json", "argparse"} & set(sys.modules)))
"""
    first, second = installed.run("-c", code).ended_well().out.splitlines()
    assert first == "[]"
    assert "aiohttp" not in second
    assert "micro_registry_consul" not in second


# -- the story -------------------------------------------------------------------------------


def code_lines(source: str) -> list[str]:
    """The lines of a program besides its types, blank ones and comments."""
    types = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.decorator_list
    ]
    of_types = {
        number
        for node in types
        for number in range(node.decorator_list[0].lineno, (node.end_lineno or 0) + 1)
    }
    return [
        line
        for number, line in enumerate(source.splitlines(), 1)
        if number not in of_types and line.strip() and not line.strip().startswith("#")
    ]


@pytest.mark.parametrize("file", ["README.md", "examples/greeter/service.py"])
def test_a_service_is_at_most_15_lines_besides_its_types(file: str) -> None:
    source = (ROOT / file).read_text()
    if file == "README.md":
        source = readme_block("# greeter.py")
    else:
        source = source.replace(ast.get_docstring(ast.parse(source), clean=False) or "", "")
    lines = code_lines(source)
    assert 5 < len(lines) <= 15, "\n".join(lines)


def test_the_embedded_default_needs_no_choice(installed: Venv, tmp_path: Path) -> None:
    story = Story(installed, tmp_path)
    tell(story, LOCAL)
    assert not list(tmp_path.glob("*/*.json")), "the node has left the registry"


@pytest.mark.parametrize("way", WAYS)
def test_the_embedded_default_is_chosen(installed: Venv, tmp_path: Path, way: str) -> None:
    story = Story(installed, tmp_path)
    story.choose(way, LOCAL)
    tell(story, LOCAL)


@pytest.mark.parametrize("way", WAYS)
def test_consul_is_chosen(installed: Venv, tmp_path: Path, consul_address: str, way: str) -> None:
    story = Story(installed, tmp_path, f"greeter-{secrets.token_hex(4)}")
    plugin = Plugin(
        "consul",
        "micro-registry-consul 0.1.0",
        "from micro_registry_consul import ConsulRegistry",
        f'ConsulRegistry("{consul_address}")',
        consul_address,
    )
    story.choose(way, plugin)
    tell(story, plugin)


# -- the stranger ----------------------------------------------------------------------------


def test_a_registry_is_written_in_less_than_60_lines() -> None:
    texts = [(STRANGER / name).read_text() for name in STRANGERS_FILES]
    assert len(texts[1].splitlines()) < 60
    written = [line for text in texts for line in text.splitlines() if line.strip()]
    assert 20 < len(written) < 60, "blank lines aside, with its pyproject.toml"


def test_a_stranger_is_installed_without_a_change_to_ours(
    installed: Venv, stranger: Result
) -> None:
    last = stranger.out.strip().splitlines()[-1]
    assert last == "Successfully installed acme-registry-1.0.0"
    table = installed.run("-m", "micro_core").ended_well().out
    assert re.search(r"registry +acme +acme-registry 1\.0\.0 +acme_registry:AcmeRegistry\n", table)
    code = "from micro_core import Service; Service('any').run()"
    shown = installed.run("-c", code, "--registry=acme", "--help").ended_well()
    assert "--registry_patience" in shown.out


@pytest.mark.usefixtures("stranger")
@pytest.mark.parametrize("way", WAYS)
def test_a_stranger_is_chosen(installed: Venv, tmp_path: Path, way: str) -> None:
    story = Story(installed, tmp_path)
    story.choose(way, ACME)
    tell(story, ACME)
    assert (tmp_path / ".acme-registry").exists()


@pytest.mark.usefixtures("stranger")
def test_who_chose_another_registry_does_not_find_it(installed: Venv, tmp_path: Path) -> None:
    story = Story(installed, tmp_path)
    story.choose("by flag", ACME)
    story.callers_variables = {}
    with story.serve() as greeter:
        greeter.line(" started as ")
        asked = story.call()
        assert asked.code == 1
        assert "ServiceNotFound: no service greeter in the registry" in asked.err
        assert greeter.stop() == 0


@pytest.mark.usefixtures("stranger")
def test_a_strangers_option_and_address_are_flags(installed: Venv, tmp_path: Path) -> None:
    story = Story(installed, tmp_path)
    story.choose("by flag", Plugin("acme", "", "", "", str(tmp_path / "elsewhere")))
    story.flags.append("--registry_patience=1.5")
    tell(story, ACME)
    assert (tmp_path / "elsewhere").exists()
    assert not (tmp_path / ".acme-registry").exists()


@pytest.mark.usefixtures("stranger")
def test_a_strangers_failure_is_told_like_ours(installed: Venv, tmp_path: Path) -> None:
    story = Story(installed, tmp_path)
    story.choose("by flag", Plugin("acme", "", "", "", "/nowhere/at/all"))
    with story.serve() as greeter:
        assert greeter.wait() == 2
    assert greeter.lines[0].startswith("error: registry acme at /nowhere/at/all: unable to open")
    assert "--registry_address" in "\n".join(greeter.lines)


def acme(path: Path) -> Registry:
    spec = importlib.util.spec_from_file_location("acme_registry", STRANGER / "acme_registry.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    registry = module.AcmeRegistry(str(path))
    assert isinstance(registry, Registry)
    return registry


def test_the_strangers_registry_keeps_what_registries_promise(tmp_path: Path) -> None:
    path = tmp_path / "file"
    old = ServiceInfo("s", "1", [Node("s-1", "10.0.0.1:90", {"zone": "z"})], [Endpoint("A.B")])
    new = ServiceInfo("s", "2", [Node("s-2", "10.0.0.2:90"), Node("s-3", "[::1]:90")])

    async def body() -> None:
        async with acme(path) as one, acme(path) as two, two.watch("s") as watcher:
            await one.register(old)
            await one.register(new)
            assert await two.get_service("s") == [old, new]
            assert await two.list_services() == ["s"]
            assert {(await anext(watcher)).service.nodes[0].id for _ in range(3)} == {
                "s-1", "s-2", "s-3"
            }  # fmt: skip
            await one.deregister(new.with_nodes(new.nodes[:1]))
            event = await anext(watcher)
            assert (event.action, event.service.nodes[0].id) == ("delete", "s-2")
            assert await one.get_service("other") == []
        async with acme(path) as later:
            assert await later.get_service("s") == [], "closing deregisters what one registered"

    asyncio.run(body())


def test_the_strangers_registry_forgets_what_nobody_renews(tmp_path: Path) -> None:
    info = ServiceInfo("s", "1", [Node("s-1", "10.0.0.1:90")])

    async def body() -> None:
        async with acme(tmp_path / "file") as registry:
            await registry.register(info, ttl=1.0)
            assert await registry.get_service("s") == [info]
            async with asyncio.timeout(10.0):
                while await registry.get_service("s"):
                    await asyncio.sleep(0.05)
            assert await registry.list_services() == []

    asyncio.run(body())


def test_the_strangers_registry_maps_its_errors(tmp_path: Path) -> None:
    async def body() -> None:
        async with acme(tmp_path) as registry:  # a directory
            with pytest.raises(
                BackendUnavailable, match=f"registry acme at {tmp_path}: unable to open"
            ):
                await registry.list_services()

    asyncio.run(body())


# -- the suite, for a plugin of somebody else ----------------------------------------------------

SUITE = """
from pathlib import Path

from acme_registry import AcmeRegistry
from micro_conformance import RegistrySuite


class TestAcme(RegistrySuite):
    ttl = 1.0

    def make(self, address: str) -> AcmeRegistry:
        return AcmeRegistry(str(Path.cwd() / f"{address}.sqlite"))
"""
ODD = """
[pytest]
python_classes = Spec*
python_functions = should_*
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""


@pytest.fixture(scope="session")
def tried(stranger: Result, installed: Venv, dist: Path) -> Venv:
    """Where the stranger's plugin is, the suite and an asyncio plugin of pytest."""
    installed.pip("install", "--find-links", dist, "micro-conformance", "pytest-asyncio")
    return installed


def verdicts(tried: Venv, folder: Path, **variables: str) -> dict[str, str]:
    (folder / "test_conformance.py").write_text(SUITE)
    command = ["-m", "pytest", "-q", "--micro-report=report.json", str(folder)]
    home = environment(folder, **variables)
    finish([tried.python, *command], home, folder, 300).ended_well()
    report = json.loads((folder / "report.json").read_text())["plugins"]["registry:acme"]
    return {result["promise"]: result["verdict"] for result in report["results"]}


@pytest.mark.full
def test_a_strangers_plugin_is_tried_from_wheels_in_less_than_fifteen_lines(
    tried: Venv, tmp_path: Path
) -> None:
    """And comes to the same verdicts whatever the stranger has configured."""
    assert len(SUITE.strip().splitlines()) < 15
    plain, odd = tmp_path / "plain", tmp_path / "odd"
    for folder in (plain, odd):
        folder.mkdir()
    (odd / "pytest.ini").write_text(ODD)
    found = verdicts(tried, plain)
    print({verdict: list(found.values()).count(verdict) for verdict in found.values()})
    assert len(found) >= 40
    assert "broken" not in found.values()
    assert verdicts(tried, odd, PYTHONASYNCIODEBUG="1") == found
