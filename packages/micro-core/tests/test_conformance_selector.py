"""The selectors of the core keep every promise of selectors."""

from __future__ import annotations

from micro_conformance import SelectorSuite
from micro_core import Selector
from micro_core.selector.p2c import P2CSelector
from micro_core.selector.random import RandomSelector
from micro_core.selector.roundrobin import RoundRobinSelector


class TestRandom(SelectorSuite):
    def make(self, address: str) -> Selector:
        return RandomSelector()


class TestRoundRobin(SelectorSuite):
    def make(self, address: str) -> Selector:
        return RoundRobinSelector()


class TestP2C(SelectorSuite):
    def make(self, address: str) -> Selector:
        return P2CSelector()
