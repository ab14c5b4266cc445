"""Flag, variable, code, default: which component, with which options."""

from __future__ import annotations

import enum
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import pytest

from micro_core import plugins
from micro_core.errors import OptionError, PluginIncomplete, PluginNotFound
from micro_core.options import Duration, reader_for
from micro_core.plugin import Plugin
from micro_core.registry.base import Registry
from micro_core.security import TLS, Secret, secret
from micro_core.settings import CORE, CoreOption, Settings
from micro_core.transport.base import Transport

CANARY = "hunter2canary"


def fake(kind: str, name: str, **members: Any) -> type[Plugin]:
    """A class that implements the interface of its kind and does nothing."""
    base = plugins.base(kind)
    stubs = dict.fromkeys(getattr(base, "__abstractmethods__", ()), lambda *_: None)
    return type(f"Fake{name.title()}", (base,), {**stubs, "name": name, **members})


class Acme(fake("registry", "acme")):  # type: ignore[misc]
    """A registry with options of every type.

    token: what the server
        wants to see.
    timeout: of every question.
    """

    default_address = "127.0.0.1:7000"

    def __init__(
        self,
        *addresses: str,
        token: Secret | str | None = None,
        timeout: Duration = 5.0,
        retries: int = 3,
        rate: float | None = None,
        datacenter: str = "",
        strict: bool = True,
        mode: Literal["fast", "safe"] = "fast",
        path: Path | None = None,
        tags: tuple[str, ...] = (),
        tls: TLS | None = None,
        hook: Any = None,
    ) -> None:
        super().__init__(*addresses)
        self.token = secret(token)
        self.given = {name: value for name, value in locals().items() if name != "self"}


class Needy(fake("broker", "needy")):  # type: ignore[misc]
    def __init__(
        self, *addresses: str, registry: Registry | None = None, over: Transport | None = None
    ) -> None:
        super().__init__(*addresses)
        self.registry = registry
        self.over = over


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with (
        plugins.registered("registry", "acme", Acme),
        plugins.registered("registry", "other", fake("registry", "other")),
        plugins.registered("broker", "needy", Needy),
    ):
        yield


def read(*argv: str, **environ: str) -> Settings:
    return Settings.read(argv, environ)


def acme(*argv: str, code: Any = None, **environ: str) -> Acme:
    found = read(*argv, **environ).choose("registry", code, "acme")
    assert type(found) is Acme
    return found


# -- which plugin ------------------------------------------------------------------------------

LAYERS = ("flag", "env", "code", "default")
PAIRS = [(high, low) for i, high in enumerate(LAYERS) for low in LAYERS[i + 1 :]]


@pytest.mark.parametrize("form", ["name", "class", "object"])
@pytest.mark.parametrize(("high", "low"), PAIRS)
@pytest.mark.parametrize("kind", plugins.KINDS)
def test_the_higher_layer_chooses_the_plugin(kind: str, high: str, low: str, form: str) -> None:
    classes = {layer: fake(kind, layer) for layer in LAYERS}
    with ExitStack() as stack:
        for name, cls in classes.items():
            stack.enter_context(plugins.registered(kind, name, cls))
        argv = [f"--{kind}", "flag"] if "flag" in (high, low) else []
        environ = {f"MICRO_{kind.upper()}": "env"} if "env" in (high, low) else {}
        code: Any = {"name": "code", "class": classes["code"], "object": classes["code"]()}[form]
        settings = Settings.read(argv, environ)
        chosen = settings.choose(kind, code if "code" in (high, low) else None, "default")
        settings.check()
    assert type(chosen) is classes[high]
    if high == "code" and form == "object":
        assert chosen is code


def test_the_flags_have_the_spellings_of_go_and_of_python() -> None:
    for argv in (
        ["--registry", "other"],
        ["--registry=other"],
        ["--registry", "acme", "--registry=other"],
    ):
        assert read(*argv).choose("registry", None, "acme").name == "other"
    for argv in (["--registry-address", "h:1"], ["--registry_address=h:1"]):
        assert acme(*argv).addresses == ("h:1",)


def test_a_component_in_code_must_be_of_its_kind() -> None:
    wrong: list[Any] = [Needy(), Needy, Plugin, object(), 42]
    for code in wrong:
        with pytest.raises(PluginIncomplete, match="registry= in code"):
            read().choose("registry", code, "acme")


# -- addresses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("high", "low"), PAIRS)
def test_the_higher_layer_gives_the_address(high: str, low: str) -> None:
    argv = ["--registry_address", "flag:1"] if "flag" in (high, low) else []
    environ = {"MICRO_REGISTRY_ADDRESS": "env:1"} if "env" in (high, low) else {}
    code = Acme("code:1") if "code" in (high, low) else None
    expected = {"flag": "flag:1", "env": "env:1", "code": "code:1", "default": "127.0.0.1:7000"}
    assert acme(*argv, code=code, **environ).addresses == (expected[high],)


def test_an_address_is_a_list_with_commas_and_keeps_the_options() -> None:
    code = Acme("code:1", token="t", retries=7)
    found = acme("--registry_address", "a:1, [::1]:2,http://c:3", code=code)
    assert found.addresses == ("a:1", "[::1]:2", "http://c:3")
    assert found is not code
    assert (found.token, found.given["retries"]) == (Secret("t"), 7)
    assert code.addresses == ("code:1",)


@pytest.mark.parametrize(
    "text", ["", "a:1,", ",", "a:1,,b:2", "h:", "h:x", "h:65536", "h:٣", "h:-1", "h:123456", "::1",
             "a b", "http://h:x/", "http://u:p@h:99999", "[::1]:x", "a\nb", "h:1 2"]
)  # fmt: skip
@pytest.mark.parametrize("source", ["--registry_address", "MICRO_REGISTRY_ADDRESS"])
def test_a_bad_address_is_an_error_with_an_example(text: str, source: str) -> None:
    flag = source.startswith("--")
    argv, environ = ([f"{source}={text}"], {}) if flag else ([], {source: text})
    if not text and not flag:
        assert acme(**environ).addresses == ("127.0.0.1:7000",)  # an empty variable is none
        return
    with pytest.raises(OptionError) as caught:
        acme(*argv, **environ)
    assert str(caught.value).startswith(f"{source}: ")
    assert "an address such as 127.0.0.1:7000" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["h", "h:1", "10.0.0.1:8500", "[::1]", "[::1]:8500", "http://h", "http://h:1/p?q=a:b",
             "amqp://u:p@h:5672/%2F", "/var/run/x y.sock", "./x:y", "unix:///x", "zk:2181/chroot",
             "default", "nats://u:p@[::1]:4222", "dir/a:b", ":0", "0.0.0.0:0", "http://h:1?q=a:b"]
)  # fmt: skip
def test_a_good_address_passes(text: str) -> None:
    assert acme("--registry_address", text).addresses == (text,)


def test_a_plugin_may_have_its_own_idea_of_an_address() -> None:
    def check_address(cls: type[Plugin], address: str) -> None:
        if not address.startswith("x-"):
            raise ValueError("it begins with no x-")

    picky = fake("registry", "picky", check_address=classmethod(check_address))
    assert read("--registry_address=x-:y").choose("registry", picky).addresses == ("x-:y",)
    with pytest.raises(OptionError, match="'y' is not an address .*: it begins with no x-"):
        read("--registry_address=y").choose("registry", picky)


def test_a_plugin_without_addresses_takes_none() -> None:
    settings = read("--codec_address", "h:1")
    with pytest.raises(OptionError, match="--codec_address: codec json has no address"):
        settings.choose("codec", fake("codec", "json"))


# -- what code said is kept --------------------------------------------------------------------


def test_an_object_that_nothing_changes_is_itself() -> None:
    code = Acme("h:1", token="t", tls=TLS(ca="x"))
    assert acme(code=code) is code
    assert acme("--registry", "acme", code=code) is code
    assert acme("--registry_address", "h:1", "--registry_tls", code=code) is code
    assert acme(code=code, MICRO_REGISTRY="acme", MICRO_BROKER="x", MICRO_REGISTRY_TOKEN="") is code
    assert acme("--registry_retries", "4", code=code) is not code


def test_an_object_with_a_length_of_none_is_kept() -> None:
    empty = fake("store", "empty", __len__=lambda self: 0)()
    assert read().choose("store", empty, "x") is empty


def test_an_option_from_outside_leaves_the_other_options_as_in_code() -> None:
    code = Acme("h:1", token="t", retries=7, hook=print)
    found = acme("--registry_retries", "8", code=code)
    assert found.given["retries"] == 8
    assert (found.addresses, found.token, found.given["hook"]) == (("h:1",), Secret("t"), print)
    assert code.given["retries"] == 7


def test_another_plugin_takes_nothing_of_the_object_it_replaces() -> None:
    takes_token = type("TakesToken", (Acme,), {"name": "takes"})
    with plugins.registered("registry", "takes", takes_token):
        found = read("--registry", "takes").choose("registry", Acme("h:1", token="t"))
    assert (found.addresses, found.token) == (("127.0.0.1:7000",), None)


def test_an_alias_of_the_plugin_of_the_object_keeps_it() -> None:
    code = Acme("h:1")
    with plugins.registered("registry", "acme2", Acme):
        assert acme("--registry", "acme2", code=code) is code


def test_needs_are_filled_where_code_gave_none() -> None:
    registry, own = Acme(), Acme()
    needs: dict[type, object] = {Registry: registry}
    made = read().choose("broker", None, "needy", needs=needs)
    assert (made.registry, made.over) == (registry, None)
    assert read().choose("broker", Needy("h:1"), needs=needs).registry is registry
    code = Needy(registry=own)
    assert read().choose("broker", code, needs=needs) is code
    moved = read("--broker_address", "x:1").choose("broker", code, needs=needs)
    assert (moved.registry, moved.addresses) == (own, ("x:1",))
    with pytest.raises(OptionError, match="unknown flag '--broker_registry'"):
        settings = read("--broker_registry", "x")
        settings.choose("broker", code)
        settings.check()


# -- options of a plugin -----------------------------------------------------------------------


@pytest.mark.parametrize(("high", "low"), PAIRS)
def test_the_higher_layer_gives_the_option(high: str, low: str) -> None:
    argv = ["--registry_datacenter", "flag"] if "flag" in (high, low) else []
    environ = {"MICRO_REGISTRY_DATACENTER": "env"} if "env" in (high, low) else {}
    code = Acme(datacenter="code") if "code" in (high, low) else None
    expected = "" if high == "default" else high
    assert acme(*argv, code=code, **environ).given["datacenter"] == expected


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("token", CANARY, Secret(CANARY)),
        ("timeout", "1m30s", 90.0),
        ("timeout", "0.5", 0.5),
        ("retries", "-1", -1),
        ("rate", "2.5", 2.5),
        ("datacenter", "-x =y", "-x =y"),
        ("strict", "no", False),
        ("strict", "ON", True),
        ("mode", "SAFE", "safe"),
        ("path", "/a b", Path("/a b")),
        ("tags", "a, b", ("a", "b")),
        ("tags", "a", ("a",)),
    ],
)
def test_an_option_is_read_by_its_annotation(name: str, text: str, value: object) -> None:
    variable = f"MICRO_REGISTRY_{name.upper()}"
    for found in (
        acme(f"--registry_{name}", text),
        acme(f"--registry-{name}={text}"),
        acme(**{variable: text}),
    ):
        assert found.given[name] == value


def test_switches_need_no_value_and_have_a_no() -> None:
    assert acme("--registry_strict", code=Acme(strict=False)).given["strict"] is True
    assert acme("--no-registry_strict").given["strict"] is False
    assert acme("--no-registry-strict", "--registry_strict").given["strict"] is True
    assert acme("--registry_strict", "--no_registry_strict").given["strict"] is False
    for argv in (["--no-registry_token"], ["--no-registry_strict=yes"], ["--no-registry"]):
        with pytest.raises(OptionError, match=argv[0].partition("=")[0]):
            chosen(*argv).check()


@pytest.mark.parametrize(
    ("name", "text", "form"),
    [
        ("timeout", "soon", "a duration such as"),
        ("timeout", "-1s", "a duration such as"),
        ("retries", "1.5", "a whole number"),
        ("rate", "nan", "a number"),
        ("rate", "5s", "a number"),
        ("strict", "maybe", "true or false"),
        ("mode", "slow", "one of fast, safe"),
        ("tags", "a,,b", "a list with commas"),
        ("retries", "9" * 5000, "a whole number"),
        ("tls", "maybe", "true or false"),
    ],
)
def test_a_value_that_cannot_be_read_is_named_with_what_is_expected(
    name: str, text: str, form: str, tmp_path: Path
) -> None:
    variable, file = f"MICRO_REGISTRY_{name.upper()}", tmp_path / "value"
    file.write_text(text)
    for source, argv, environ in (
        (f"--registry_{name}", [f"--registry_{name}={text}"], {}),
        (variable, [], {variable: text}),
        (f"{variable}_FILE", [], {f"{variable}_FILE": str(file)}),
    ):
        with pytest.raises(OptionError) as caught:
            acme(*argv, **environ)
        assert str(caught.value).startswith(f"{source}: '{text[:40]}")
        assert form in str(caught.value)
        assert len(str(caught.value)) < 200


def test_a_flag_without_its_value_says_what_it_wants() -> None:
    for argv in (["--registry_retries"], ["--registry_retries", "--registry_strict"]):
        with pytest.raises(OptionError, match="--registry_retries needs a value: a whole number"):
            acme(*argv)
    with pytest.raises(OptionError, match="--registry needs a value"):
        acme("--registry")
    with pytest.raises(PluginNotFound, match="no registry '' is installed"):
        acme("--registry=")


def test_an_option_that_only_code_can_give_is_no_flag() -> None:
    settings = read("--registry_hook", "print")
    settings.choose("registry", None, "acme")
    with pytest.raises(OptionError, match="unknown flag '--registry_hook'"):
        settings.check()


def test_tls_is_given_in_parts() -> None:
    assert acme().given["tls"] is None
    assert acme("--registry_tls").given["tls"] == TLS()
    made = acme("--registry_tls_cert", "c", "--registry_tls_key=k", MICRO_REGISTRY_TLS_CA="a")
    assert made.given["tls"] == TLS(ca=Path("a"), cert=Path("c"), key=Path("k"))
    code = Acme(tls=TLS(ca="mine", verify=False))
    changed = acme("--registry_tls_verify", "--registry_tls_server_name=n", code=code)
    assert changed.given["tls"] == TLS(ca="mine", server_name="n")
    assert acme("--no-registry_tls", "--registry_tls_ca", "a", code=code).given["tls"] is None


def test_tls_in_parts_begins_with_what_the_plugin_says_itself() -> None:
    own = TLS(ca="own", verify=False)

    def init(self: Any, *, tls: TLS | None = own) -> None:
        self.tls = tls

    cls = fake("registry", "safe", __init__=init)
    found = read("--registry_tls_server_name=n").choose("registry", cls)
    assert found.tls == TLS(ca="own", verify=False, server_name="n")
    assert read("--no-registry_tls").choose("registry", cls).tls is None
    assert read("--registry_tls_ca=a").choose("registry", cls(tls=None)).tls == TLS(ca=Path("a"))
    assert "--registry_tls " in read().help({"registry": cls})


def test_an_option_may_not_take_a_name_of_the_core() -> None:
    def taking(kind: str, **options: Any) -> type[Plugin]:
        def init(self: Any, *addresses: str, **given: Any) -> None: ...

        import inspect

        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)]
        parameters += [
            inspect.Parameter(name, keyword, annotation=hint, default=None)
            for name, hint in options.items()
        ]
        init.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return fake(kind, "greedy", __init__=init)

    for kind, option in (
        ("registry", {"address": str}),
        ("server", {"name": str}),
        ("server", {"address": str}),
        ("client", {"request_timeout": float}),
        ("registry", {"tls": TLS, "tls_ca": str}),
    ):
        with pytest.raises(PluginIncomplete, match=r"greedy: its option .* another meaning"):
            read().choose(kind, taking(kind, **option))
    shared = taking("client", pool_size=int)
    read().choose("client", shared)
    with pytest.raises(OptionError, match="at least 0"):
        read("--client_pool_size=-1").choose("client", shared)


def test_a_required_option_is_asked_for() -> None:
    def init(self: Any, *, token: Secret, over: Transport) -> None: ...

    strict = fake("registry", "strict", __init__=init)
    with pytest.raises(
        OptionError, match=r"'token': give --registry_token or MICRO_REGISTRY_TOKEN"
    ):
        read().choose("registry", strict)
    with pytest.raises(OptionError, match="'over': give it in code"):
        read("--registry_token", "x").choose("registry", strict)


def test_a_constructor_that_refuses_is_an_option_error() -> None:
    def init(self: Any, address: str, *, size: int = 0) -> None:
        if size < 0:
            raise ValueError(f"size {size} of amqp://u:{CANARY}@h is below 0")

    picky = fake("registry", "picky", __init__=init)
    with pytest.raises(OptionError, match="'address': give --registry_address or MICRO_REG"):
        read().choose("registry", picky)
    with pytest.raises(OptionError, match="picky refuses its options: size -1") as caught:
        read("--registry_size=-1", "--registry_address=h:1").choose("registry", picky)
    assert isinstance(caught.value.__cause__, ValueError)
    assert CANARY not in str(caught.value)


def test_an_annotation_that_cannot_be_evaluated_is_the_authors() -> None:
    def init(self: Any, *, x: Unknown = None) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(PluginIncomplete, match=r"(?s)vague.*'Unknown'.*outside TYPE_CHECKING"):
        read().choose("registry", fake("registry", "vague", __init__=init))


def test_options_that_are_handed_on_to_the_base_are_options_too() -> None:
    def init(self: Any, *addresses: str, extra: int = 0, **options: Any) -> None:
        Acme.__init__(self, *addresses, **options)
        self.extra = extra

    child = type("Child", (Acme,), {"name": "child", "__init__": init})
    found = read("--registry_extra=4", "--registry_retries=5").choose("registry", child)
    assert (found.extra, found.given["retries"]) == (4, 5)


def test_options_that_are_not_handed_on_are_none() -> None:
    def init(self: Any, *, extra: int = 0) -> None:
        Acme.__init__(self, retries=1)

    settings = read("--registry_retries=5")
    assert settings.choose("registry", type("Child", (Acme,), {"__init__": init})).token is None
    with pytest.raises(OptionError, match="registry_extra\nAll flags"):
        settings.check()


# -- files -------------------------------------------------------------------------------------


def test_a_file_holds_the_value_of_a_variable(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"\n{CANARY}\n")
    assert acme(MICRO_REGISTRY_TOKEN_FILE=str(file)).token == Secret(CANARY)
    assert acme("--registry_token=x", MICRO_REGISTRY_TOKEN_FILE=str(file)).token == Secret("x")
    file.write_text("h:1,h:2")
    assert acme(MICRO_REGISTRY_ADDRESS_FILE=str(file)).addresses == ("h:1", "h:2")
    assert read(MICRO_SERVER_NAME_FILE=str(file)).core("server_name", "code") == "h:1,h:2"


def test_a_file_that_cannot_be_used_is_named_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    with pytest.raises(
        OptionError, match=r"MICRO_REGISTRY_TOKEN_FILE: .*secret' cannot be read: No"
    ):
        acme(MICRO_REGISTRY_TOKEN_FILE=str(file))
    file.write_bytes(CANARY.encode() + b"\xff")
    with pytest.raises(OptionError, match="not text in UTF-8") as caught:
        acme(MICRO_REGISTRY_TOKEN_FILE=str(file))
    assert caught.value.__cause__ is None
    with pytest.raises(OptionError, match="both set"):
        acme(MICRO_REGISTRY_TOKEN_FILE=str(file), MICRO_REGISTRY_TOKEN="x")
    for name in ("TLS_KEY", "PATH"):
        with pytest.raises(OptionError, match=f"set MICRO_REGISTRY_{name}$"):
            acme(**{f"MICRO_REGISTRY_{name}_FILE": str(file)})


def test_an_option_named_file_is_itself(tmp_path: Path) -> None:
    def init(self: Any, *, keep: str = "", keep_file: str = "", file: str = "") -> None:
        self.seen = (keep, keep_file, file)

    cls = fake("registry", "filed", __init__=init)
    settings = read(MICRO_REGISTRY_KEEP_FILE="a", MICRO_REGISTRY_FILE="b")
    assert settings.choose("registry", cls).seen == ("", "a", "b")


# -- options of the core -----------------------------------------------------------------------


@pytest.mark.parametrize(("high", "low"), PAIRS)
@pytest.mark.parametrize("table", [False, True])
def test_the_higher_layer_gives_the_core_option(high: str, low: str, table: bool) -> None:
    argv = ["--grace", "1s"] if "flag" in (high, low) else []
    environ = {"MICRO_GRACE": "2"} if "env" in (high, low) else {}
    code = 3.0 if "code" in (high, low) else None
    default = None if table else 4.0
    expected = {"flag": 1.0, "env": 2.0, "code": 3.0, "default": 10.0 if table else 4.0}
    assert Settings.read(argv, environ).core("grace", code, default) == expected[high]


def test_nothing_in_code_is_lost_to_a_default() -> None:
    settings = read()
    for option in CORE:
        for code in (0, "", False, "x"):
            assert settings.core(option.name, code) == code
        assert settings.core(option.name) == option.default
        assert settings.source(option.name) == ""


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("server_address", ":0", ":0"),
        ("server_advertise", "host", "host"),
        ("server_metadata", "a=1, b=x=y", {"a": "1", "b": "x=y"}),
        ("server_metadata", "", {}),
        ("client_forward", "A,B", ("A", "B")),
        ("log_level", "DEBUG", "debug"),
        ("server_threads", "1", 1),
        ("register_ttl", "60", 60.0),
        ("traceback", "", None),
        ("server_threads", "0", None),
        ("register_ttl", "0.5", None),
        ("client_pool_size", "-1", None),
        ("server_metadata", "a", None),
        ("server_metadata", "=a", None),
        ("server_address", "host:99999", None),
        ("server_address", "", None),
        ("loop", "trio", None),
    ],
)
def test_core_options_are_typed_and_bounded(name: str, text: str, value: object) -> None:
    settings = read(f"--{name}={text}")
    if value is not None:
        assert settings.core(name) == value
        settings.check()
        return
    for ask in (lambda: settings.core(name), settings.check):
        with pytest.raises(OptionError, match=f"--{name}: "):
            ask()


def test_a_program_may_bring_core_options_of_its_own() -> None:
    own = [*CORE, CoreOption("colour", str, "red", "of the light")]
    settings = Settings.read(["--colour", "blue"], {}, core=own)
    assert settings.core("colour") == "blue"
    settings.check()
    assert "of the light" in settings.help({})


def test_the_source_of_a_choice_is_named() -> None:
    settings = read("--server-name=x", MICRO_SERVER_ID="y")
    assert settings.source("server_name") == "--server-name"
    assert settings.source("server_id") == "MICRO_SERVER_ID"
    assert settings.source("server_version") == ""


def test_help_and_traceback_are_wanted_or_not() -> None:
    for argv in (["-h"], ["--help"], ["--registry", "x", "-h"], ["--help", "x"]):
        assert read(*argv).wants("help")
    assert not read("--no-help").wants("help")
    assert not read().wants("traceback")


# -- what nobody knows -------------------------------------------------------------------------


def chosen(*argv: str, **environ: str) -> Settings:
    settings = read(*argv, **environ)
    settings.choose("registry", None, "acme")
    return settings


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--registry_tokn", CANARY], "Did you mean --registry_token?"),
        (["--registy", "acme"], "Did you mean --registry?"),
        (["--server-nam=x"], "Did you mean --server_name?"),
        (["--qqqq"], "All flags: --help"),
        (["--registry_zone=x"], "Flags of registry acme: --registry_address, --registry_token,"),
        (["--broker", "x"], "This program uses no broker"),
        (["--broker_address", "x"], "This program uses no broker"),
        (["--store_x", "x"], "This program uses no store"),
        (["--no-such"], "unknown flag '--no-such'"),
    ],
)
def test_an_unknown_flag_is_an_error_with_the_near_miss(argv: Sequence[str], said: str) -> None:
    settings = chosen(*argv)
    with pytest.raises(OptionError) as caught:
        settings.check()
    assert f"unknown flag '{argv[0].partition('=')[0]}'" in str(caught.value)
    assert said in str(caught.value)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("argv", [["start"], ["--grace=1", "start"], ["--grace", "1", "start"],
                                  ["-registry", "acme"], ["--grace=1", "--", "start"],
                                  ["--traceback", "--"]])  # fmt: skip
def test_what_is_no_flag_is_an_error(argv: Sequence[str]) -> None:
    with pytest.raises(OptionError, match=r"unexpected argument: '(start|-registry|--)'"):
        chosen(*argv).check()


def test_what_follows_a_secret_is_not_shown() -> None:
    with pytest.raises(OptionError, match="a second value for --registry_token") as caught:
        chosen("--registry_token", "correct", CANARY).check()
    assert CANARY not in str(caught.value)


def test_a_variable_that_is_nearly_one_of_ours_warns(caplog: pytest.LogCaptureFixture) -> None:
    near = {
        "MICRO_REGSTRY": "MICRO_REGISTRY",
        "MICRO_REGISTRY_TOKN": "MICRO_REGISTRY_TOKEN",
        "MICRO_LOGLEVEL": "MICRO_LOG_LEVEL",
    }
    others = {
        "MICRO_SERVICE_HOST": "10.0.0.1",
        "MICRO_REGISTRY_SERVICE_HOST": "10.0.0.1",
        "MICRO_REGISTRY_SERVICE_PORT_HTTP": "80",
        "MICRO_REGISTRY_PORT": "tcp://10.0.0.1:80",
        "MICRO_REGISTRY_PORT_80_TCP_ADDR": "10.0.0.1",
        "MICRO_TEST_CONSUL": "x",
        "MICRO_BROKER_USERNAME": "x",
        "MICRO_REGISTRY_TOKEN_FILE": "",
        "MICROREGISTRY": "x",
        "MICRO_GRACE": "1",
    }
    with caplog.at_level(logging.WARNING, "micro"):
        chosen(**dict.fromkeys(near, CANARY), **others).check()
    assert sorted(record.getMessage() for record in caplog.records) == sorted(
        f"{wrong} is not used: did you mean {right}?" for wrong, right in near.items()
    )


def test_kubernetes_does_not_set_the_port_of_a_plugin() -> None:
    def init(self: Any, *, port: int = 1) -> None:
        self.port = port

    cls = fake("registry", "ported", __init__=init)
    for text, port in (("tcp://10.0.0.1:80", 1), ("8500", 8500)):
        assert read(MICRO_REGISTRY_PORT=text).choose("registry", cls).port == port


def test_nothing_set_costs_no_look_at_the_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    def scan() -> Iterator[plugins.Installed]:
        raise AssertionError("the installation was read")

    plugins.refresh()
    monkeypatch.setattr(plugins, "_scan", scan)
    settings = Settings.read(None, {"MICRO_SELECTOR_X": "x"})
    assert settings.choose("selector", None, "random").name == "random"
    settings.check()


def test_who_asked_for_a_plugin_that_is_missing_is_noted() -> None:
    for argv, environ, source in (
        (["--registry=zzz"], {}, "--registry"),
        ([], {"MICRO_REGISTRY": "zzz"}, "MICRO_REGISTRY"),
    ):
        with pytest.raises(PluginNotFound) as caught:
            Settings.read(argv, environ).choose("registry", None, "acme")
        assert caught.value.__notes__ == [f"It was asked for by {source}."]
    with pytest.raises(PluginNotFound) as caught:
        read().choose("registry", "zzz", "acme")
    assert not hasattr(caught.value, "__notes__")


def test_a_list_of_secrets_that_cannot_be_read_is_not_shown() -> None:
    def init(self: Any, *, keys: tuple[Secret, ...] = (Secret(CANARY),)) -> None: ...

    cls = fake("registry", "keyed", __init__=init)
    settings = read(f"--registry_keys={CANARY},,x")
    with pytest.raises(OptionError, match="--registry_keys: the value is not a list") as caught:
        settings.choose("registry", cls)
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert CANARY not in settings.help({"registry": cls})
    mixed = reader_for(tuple[Secret, ...] | int)
    assert mixed is not None
    assert mixed.hidden


def test_an_address_with_a_password_is_not_shown() -> None:
    for text in (f"x://u:{CANARY}@h:x", f"x://u:{CANARY},z@h", f"h:x?token={CANARY}"):
        with pytest.raises(
            OptionError, match="the value is not an address .* number [12] of [12]: "
        ) as caught:
            acme("--registry_address", text)
        assert CANARY not in str(caught.value)


def test_secrets_are_in_no_repr(tmp_path: Path) -> None:
    settings = chosen(f"--registry_token={CANARY}", MICRO_REGISTRY_DATACENTER=CANARY)
    for shown in (settings, settings._flags, settings._environ, settings.choose("registry", Acme)):
        assert CANARY not in repr(shown)


# -- annotations -------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"
    BLUE = 2


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [
        (Colour, "red", Colour.RED),
        (Colour | None, "2", Colour.BLUE),
        (Literal["auto"] | float, "auto", "auto"),
        (Literal["auto"] | float, "2", 2.0),
        (Literal[1, 2], "2", 2),
        (list[int], "1,2", [1, 2]),
        (Sequence[str], "a,b", ("a", "b")),
        (Sequence[str] | None, "", ()),
        (Mapping[str, str], "a=b", {"a": "b"}),
        (dict[str, str] | None, "a=b", {"a": "b"}),
        (tuple[Duration, ...], "1s,1m", (1.0, 60.0)),
        (str | Path, "x", Path("x")),
        (Secret | str, "x", Secret("x")),
        (str | Secret | None, "x", Secret("x")),
    ],
)
def test_the_reader_of_an_annotation(hint: Any, text: str, value: object) -> None:
    reader = reader_for(hint)
    assert reader is not None
    assert reader.read(text) == value
    if not reader.hidden:
        assert reader.read(reader.show(value)) == value


@pytest.mark.parametrize("hint", [Any, object, None, bytes, dict[str, int], set[str], type[int],
                                  tuple[int, str], Registry, Iterator[int]])  # fmt: skip
def test_what_no_text_can_give_has_no_reader(hint: Any) -> None:
    assert reader_for(hint) is None
