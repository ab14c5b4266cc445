"""Plugins from distributions that are made for the test, found the way pip leaves them."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from micro_core import plugins
from micro_core.errors import (
    PluginConflict,
    PluginIncompatible,
    PluginIncomplete,
    PluginLoadError,
    PluginNotFound,
)
from micro_core.registry.base import Registry
from micro_core.selector.base import Selector

Install = Callable[..., str]
_numbers = itertools.count()

GOOD = """
from micro_core.selector.base import Selector
class Good(Selector):
    name = "good"
    def choose(self, nodes):
        return nodes[0]
"""
LISTING = "import sys\nfrom micro_core.__main__ import table\n"


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    plugins.refresh()
    yield
    plugins.refresh()


def write_dist(
    root: Path,
    name: str,
    code: str = GOOD,
    *,
    plugin: str = "good",
    kind: str = "selector",
    attribute: str = "Good",
    version: str = "1.0",
    requires: tuple[str, ...] = (),
    module: str = "",
) -> str:
    """A distribution of one module below ``root``, as an installer writes it."""
    module = module or f"made_{next(_numbers)}"
    root.mkdir(parents=True, exist_ok=True)
    (root / f"{module}.py").write_text(code)
    info = root / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {one}" for one in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    value = f"{module}:{attribute}" if attribute else module
    (info / "entry_points.txt").write_text(f"[micro.{kind}]\n{plugin} = {value}\n")
    return module


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def do(name: str, code: str = GOOD, **options: object) -> str:
        module = write_dist(tmp_path, name, code, **options)  # type: ignore[arg-type]
        plugins.refresh()
        return module

    yield do
    for module in set(sys.modules) - before:
        if module.startswith("made_"):
            del sys.modules[module]


# -- what is installed -------------------------------------------------------------------------


def test_the_static_table_is_the_entry_points_of_the_distribution() -> None:
    project = Path(__file__).parents[1] / "pyproject.toml"
    groups = tomllib.loads(project.read_text())["project"]["entry-points"]
    declared = {
        (group.removeprefix("micro."), name): value
        for group, entries in groups.items()
        for name, value in entries.items()
    }
    assert declared == plugins.BUILTIN


@pytest.mark.parametrize(("kind", "name"), plugins.BUILTIN)
def test_every_plugin_of_the_core_is_complete(kind: str, name: str) -> None:
    cls = plugins.load(kind, name)
    assert cls is plugins.load_default(kind, name)
    assert (cls.kind, cls.name) == (kind, name)


def test_every_kind_has_its_interface() -> None:
    for kind in plugins.KINDS:
        assert plugins.base(kind).kind == kind


def test_an_installed_plugin_is_found_with_its_distribution(install: Install) -> None:
    module = install("acme-good", version="2.1", requires=("micro-core>=0.1,<1",))
    [entry] = [one for one in plugins.installed("selector") if one.name == "good"]
    assert entry == ("selector", "good", f"{module}:Good", "acme-good", "2.1", "")
    assert plugins.load("selector", "good").__name__ == "Good"
    assert plugins.load("selector", "acme-good:good").__name__ == "Good"
    assert plugins.load("selector", "Acme_Good:good").__name__ == "Good"


def test_the_installation_is_read_once_until_refresh(tmp_path: Path, install: Install) -> None:
    assert "good" not in plugins.names("selector")
    write_dist(tmp_path, "late")
    assert "good" not in plugins.names("selector")
    plugins.refresh()
    assert "good" in plugins.names("selector")


def test_of_two_copies_of_a_distribution_the_one_that_is_imported_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dist(tmp_path / "old", "acme-good", plugin="stale", version="1.0")
    write_dist(tmp_path / "old2", "acme-good", plugin="good", version="1.0")
    write_dist(tmp_path / "new", "acme-good", plugin="good", version="2.0")
    for folder in ("old", "old2", "new"):
        monkeypatch.syspath_prepend(str(tmp_path / folder))
    found = [one for one in plugins.installed("selector") if one.dist == "acme-good"]
    assert [(one.name, one.version) for one in found] == [("good", "2.0")]


def test_the_core_is_listed_once_by_its_own_table() -> None:
    own = [(one.kind, one.name) for one in plugins.installed() if one.dist == plugins.CORE]
    assert sorted(own) == sorted(plugins.BUILTIN)


def test_what_half_an_uninstallation_left_is_no_plugin(tmp_path: Path, install: Install) -> None:
    install("acme-good")
    (tmp_path / "acme_good-1.0.dist-info" / "METADATA").unlink()
    nameless = tmp_path / "garbage-1.0.dist-info"
    nameless.mkdir()
    (nameless / "entry_points.txt").write_bytes(b"[micro.selector]\n\xff\xfe")
    plugins.refresh()
    assert "good" not in plugins.names("selector")
    assert "random" in plugins.names("selector")


def test_broken_entry_points_are_left_out_aloud(
    tmp_path: Path, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install("acme-good")
    install("acme-broken", plugin="broken")
    broken = tmp_path / "acme_broken-1.0.dist-info" / "entry_points.txt"
    broken.write_text("[micro.selector]\nno equals sign\n")
    plugins.refresh()
    assert {"good", "random"} <= set(plugins.names("selector"))
    assert "acme-broken" in caplog.text


def test_listing_imports_none(tmp_path: Path) -> None:
    module = write_dist(tmp_path, "acme-bomb", "raise SystemExit('imported')", plugin="bomb")
    write_dist(tmp_path, "acme-far", plugin="bomb", requires=("micro-core>=99",))
    code = (
        "import sys, micro_core.__main__ as m\nbefore = set(sys.modules)\n"
        "sys.stdout.write(m.table())\nnew = set(sys.modules) - before\n"
        "sys.exit(repr(sorted(n for n in new if n.startswith(('micro_core', 'made_')))))"
    )
    ran = _python(tmp_path, "-c", code)
    assert ran.stderr.strip() == "[]"
    table = _python(tmp_path, "-m", "micro_core")
    assert (table.returncode, table.stderr) == (0, "")
    assert table.stdout == ran.stdout
    rows = [line.split() for line in table.stdout.splitlines()]
    conflict = ["conflict:", "say", "acme-bomb:bomb"]
    assert ["selector", "bomb", "acme-bomb", "1.0", f"{module}:Good", *conflict] in rows
    assert ["registry", "local", "micro-core"] in [row[:3] for row in rows]


def _python(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={"PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# -- a choice that goes wrong ------------------------------------------------------------------


def test_an_unknown_name_lists_what_is_installed(install: Install) -> None:
    install("acme-good", version="2.1")
    with pytest.raises(PluginNotFound) as caught:
        plugins.load("selector", "zzz")
    text = str(caught.value)
    assert "no selector 'zzz'" in text
    assert "good (acme-good 2.1)" in text
    assert f"random (micro-core {plugins.core_version()})" in text
    assert "Did you mean" not in text
    assert "pip" not in text


def test_a_near_miss_is_named() -> None:
    with pytest.raises(PluginNotFound, match=r"Did you mean random\?"):
        plugins.load("selector", "randon")


def test_one_of_ours_that_is_not_installed_comes_with_its_pip_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(plugins.ELSEWHERE, ("registry", "faraway"), ("micro-far", "a far one"))
    for name, hint in (("faraway", "faraway (a far one) is in micro-far"), ("farway", "Did you")):
        with pytest.raises(PluginNotFound) as caught:
            plugins.load("registry", name)
        assert hint in str(caught.value)
        assert "\npip install --find-links dist micro-far\n" in str(caught.value)
    with pytest.raises(PluginNotFound, match="faraway is a registry, not a broker"):
        plugins.load("broker", "faraway")


def test_the_wrong_distribution_and_the_wrong_kind_are_named() -> None:
    with pytest.raises(PluginNotFound, match=r"of 'acme'(?s:.*)Without the distribution.*random"):
        plugins.load("selector", "acme:random")
    with pytest.raises(PluginNotFound, match="roundrobin is a selector, not a registry"):
        plugins.load("registry", "roundrobin")
    with pytest.raises(PluginNotFound, match="there are registry, broker"):
        plugins.load("regstry", "local")


def test_two_distributions_with_one_name_are_a_conflict_that_can_be_settled(
    install: Install,
) -> None:
    first = install("acme-one", version="1.1")
    second = install("acme-two", version="2.2")
    with pytest.raises(PluginConflict) as caught:
        plugins.load("selector", "good")
    text = str(caught.value)
    assert "acme-one 1.1: --selector acme-one:good" in text
    assert "acme-two 2.2: --selector acme-two:good" in text
    assert plugins.load("selector", "acme-one:good").__module__ == first
    assert plugins.load("selector", "acme-two:good").__module__ == second


def test_a_stranger_who_takes_a_name_of_the_core_never_wins_silently(install: Install) -> None:
    module = install("acme-random", plugin="random")
    with pytest.raises(PluginConflict, match="micro-core:random"):
        plugins.load("selector", "random")
    own = plugins.load("selector", "micro-core:random")
    assert own.__module__ == "micro_core.selector.random"
    assert plugins.load("selector", "acme-random:random").__module__ == module
    assert plugins.load_default("selector", "random") is own


def test_a_default_looks_at_no_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    def scan() -> Iterator[plugins.Installed]:
        raise AssertionError("the installation was read")

    monkeypatch.setattr(plugins, "_scan", scan)
    assert plugins.load_default("selector", "random").name == "random"
    with pytest.raises(AssertionError):
        plugins.load("selector", "random")


def test_two_distributions_with_the_same_class_are_no_conflict(install: Install) -> None:
    module = install("acme-good")
    install("acme-renamed", module=module)
    assert plugins.load("selector", "good").__module__ == module


@pytest.mark.parametrize(
    ("code", "attribute", "said"),
    [
        ("import surely_missing_module", "Good", "No module named 'surely_missing_module'"),
        ("1/0", "Good", "ZeroDivisionError"),
        ("raise SystemExit(3)", "Good", "SystemExit: 3"),
        ("def", "Good", "SyntaxError"),
        (GOOD, "Missing", "has no attribute 'Missing'"),
        (GOOD, "Good.Missing", "has no attribute 'Missing'"),
        ("raise ValueError('x\\n' * 5000)", "Good", "ValueError: x x"),
    ],
)
def test_an_import_that_fails_is_chained_and_named(
    install: Install, code: str, attribute: str, said: str
) -> None:
    module = install("acme-bad", code, version="0.3", attribute=attribute)
    with pytest.raises(PluginLoadError) as caught:
        plugins.load("selector", "good")
    text = str(caught.value)
    assert f"selector good of acme-bad 0.3 cannot be imported from {module}:{attribute}" in text
    assert said in text
    assert len(text) < 800
    assert "pip install --find-links dist --force-reinstall acme-bad" in text
    assert isinstance(caught.value.__cause__, BaseException)


def test_a_plugin_for_another_core_is_refused_before_its_import(install: Install) -> None:
    module = install("acme-new", "1/0", requires=("attrs", "Micro.Core[x] (>=99.1,<100)"))
    with pytest.raises(PluginIncompatible) as caught:
        plugins.load("selector", "good")
    text = str(caught.value)
    assert f"acme-new 1.0 needs micro-core>=99.1,<100, and this is {plugins.CORE}" in text
    assert plugins.core_version() in text
    assert module not in sys.modules


@pytest.mark.parametrize(
    "requires",
    [
        "micro-core>=0.0.1,<1",
        "micro-core",
        "micro-core>=99; extra == 'later'",
        "micro-core-extras>=99",
        "micro-core @ file:///nowhere",
        "micro-core>=99.dev1",
        "micro-core ===whatever",
    ],
)
def test_what_fits_or_cannot_be_read_is_loaded(install: Install, requires: str) -> None:
    install("acme-good", requires=(requires,))
    assert plugins.load("selector", "good").name == "good"


_releases = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(
    lambda numbers: ".".join(map(str, numbers))
)
_clauses = st.one_of(
    st.builds("{}{}".format, st.sampled_from([">=", "<=", "==", "!=", ">", "<"]), _releases),
    st.builds("{}{}.*".format, st.sampled_from(["==", "!="]), _releases),
    st.builds("~={}.{}".format, _releases, st.integers(0, 3)),
)


@given(st.lists(_clauses, min_size=1, max_size=3).map(",".join), _releases)
@example("==1.*", "1.2")
@example("!=1.2.*", "1.2.3")
@example("~=0.0.0", "0")
@example("~=1.2", "2.0")
@example("~=1.2.0", "1.3")
@example(">=0.1,<1", "1")
def test_the_fit_with_the_core_is_that_of_the_packaging_library(text: str, version: str) -> None:
    fits = Version(version) in SpecifierSet(text)
    assert bool(plugins._misfit([f"micro-core{text}"], version)) is not fits


HALF = """
from micro_core.registry.base import Registry
class Half(Registry):
    name = "half"
    async def _register(self, info, ttl): ...
    async def _get_service(self, name): return []
class Stray:
    name = "stray"
    def choose(self, nodes): ...
from micro_core.selector.base import Selector
class Nameless(Selector):
    def choose(self, nodes): return nodes[0]
ready = Nameless()
"""


@pytest.mark.parametrize(
    ("kind", "attribute", "said"),
    [
        ("registry", "Half", "does not implement _deregister, _list_services"),
        ("registry", "Stray", "no subclass of micro_core.registry.base:Registry"),
        ("broker", "Half", "no subclass of micro_core.broker.base:Broker"),
        ("selector", "ready", "is a Nameless, not a class"),
        ("selector", "", "is a module, not a class"),
        ("selector", "Nameless", "has no class attribute 'name'"),
    ],
)
def test_a_half_implemented_plugin_says_what_is_missing(
    install: Install, kind: str, attribute: str, said: str
) -> None:
    install("acme-half", HALF, kind=kind, attribute=attribute)
    with pytest.raises(PluginIncomplete) as caught:
        plugins.load(kind, "good")
    assert f"{kind} good of acme-half 1.0 " in str(caught.value)
    assert said in str(caught.value)
    assert "Installed:" in str(caught.value)


# -- in code -----------------------------------------------------------------------------------


class Mine(Selector):
    name = "mine"

    def choose(self, nodes: object) -> object:  # type: ignore[override]
        raise NotImplementedError


class Other(Mine):
    pass


def test_a_plugin_can_be_registered_in_code_for_a_time() -> None:
    with plugins.registered("selector", "random", Mine) as cls:
        assert plugins.load("selector", "random") is cls is Mine
        assert plugins.load_default("selector", "random") is Mine
        with plugins.registered("selector", "random", Other):
            assert plugins.load("selector", "random") is Other
        assert plugins.load("selector", "random") is Mine
    assert plugins.load("selector", "random") is not Mine
    with plugins.registered("selector", "mine", Mine):
        assert "mine" in plugins.names("selector")
        with pytest.raises(PluginNotFound, match=r"mine \(in code\)"):
            plugins.load("selector", "zzz")
    assert "mine" not in plugins.names("selector")


def test_an_incomplete_class_cannot_be_registered() -> None:
    with pytest.raises(PluginIncomplete, match="_deregister"):
        plugins.register("registry", "mine", Registry)
    with pytest.raises(PluginIncomplete, match="no subclass"):
        plugins.register("registry", "mine", Mine)
    assert "mine" not in plugins.names("registry")


def test_the_origin_of_a_class(install: Install) -> None:
    install("acme-good", version="2.1")
    assert plugins.origin(plugins.load("selector", "good")) == "acme-good 2.1"
    own = plugins.load("selector", "random")
    assert plugins.origin(own) == f"micro-core {plugins.core_version()}"
    assert plugins.origin(Mine) == "in code"


def test_the_pip_line_is_written_in_one_place() -> None:
    source = Path(plugins.__file__).parent
    lines = [line for file in source.rglob("*.py") for line in file.read_text().splitlines()]
    assert [line for line in lines if "pip install" in line] == [f'PIP = "{plugins.PIP}"']
