"""What the greeter and its callers say to each other."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class HelloRequest:
    name: str


@dataclass
class HelloReply:
    greeting: str


@dataclass
class CountRequest:
    upto: int


@dataclass
class CountReply:
    number: int
