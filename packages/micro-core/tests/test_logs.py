"""Structured logging: fields, the request at hand, and no credentials."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from micro_core.context import Call, Metadata, detached, enter
from micro_core.logs import JsonFormatter, TextFormatter


def record(message: str, *args: Any, **fields: Any) -> logging.LogRecord:
    made = logging.getLogger("micro.test").makeRecord(
        "micro.test", logging.WARNING, "file.py", 1, message, args, None, extra=fields
    )
    made.created = 0.0
    return made


def test_json_has_the_extra_fields() -> None:
    line = json.loads(JsonFormatter().format(record("took %d", 3, order=7, path=object)))
    assert line["message"] == "took 3"
    assert line["level"] == "warning"
    assert line["logger"] == "micro.test"
    assert line["order"] == 7
    assert line["time"].startswith("19")


def test_text_has_the_extra_fields() -> None:
    assert (
        TextFormatter().format(record("took", order=7)).endswith("WARNING micro.test: took order=7")
    )


def test_the_request_being_handled_is_told() -> None:
    with detached():
        enter(Call("greeter", "Say.Hello", Metadata({"Traceparent": "00-ab", "Password": "x"})))
        line = json.loads(JsonFormatter().format(record("hi")))
    assert line["service"] == "greeter"
    assert line["endpoint"] == "Say.Hello"
    assert line["traceparent"] == "00-ab"
    assert "Password" not in line
    assert "x" not in line.values()


@pytest.mark.parametrize("formatter", [TextFormatter, JsonFormatter])
def test_credentials_in_addresses_are_hidden(formatter: Callable[[], logging.Formatter]) -> None:
    failed = record("cannot reach %s", "amqp://me:hunter2@host/x?token=hunter3")
    try:
        raise OSError("no route to https://me:hunter4@host")
    except OSError as error:
        failed.exc_info = (type(error), error, error.__traceback__)
    text = formatter().format(failed)
    assert "OSError" in text
    assert "hunter" not in text
