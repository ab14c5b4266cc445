"""What the selectors promise about shares."""

from __future__ import annotations

from collections import Counter

from micro_core import Node
from micro_core.selector.random import RandomSelector
from micro_core.selector.roundrobin import RoundRobinSelector

NODES = tuple(Node(str(i), f"127.0.0.1:{i}") for i in range(5))


def test_roundrobin_gives_every_node_the_same_share() -> None:
    selector = RoundRobinSelector()
    chosen = Counter(selector.choose(NODES).id for _ in range(500))
    assert set(chosen.values()) == {100}


def test_roundrobin_keeps_its_turns_across_calls_and_sets_apart() -> None:
    selector, others = RoundRobinSelector(), NODES[:2]
    first = [selector.choose(NODES), selector.choose(others), selector.choose(NODES)]
    assert NODES.index(first[2]) == (NODES.index(first[0]) + 1) % 5
    assert selector.choose(others) is not first[1]


def test_roundrobin_starts_differ_between_clients() -> None:
    assert len({RoundRobinSelector().choose(NODES).id for _ in range(200)}) == 5


def test_roundrobin_is_bounded_over_many_sets() -> None:
    selector = RoundRobinSelector()
    for _ in range(5000):
        selector.choose(tuple(NODES))
        selector.choose((*NODES[:2], Node("x", "y")))
    assert len(selector._turns) <= 1024


def test_random_reaches_every_node_evenly() -> None:
    selector = RandomSelector()
    chosen = Counter(selector.choose(NODES).id for _ in range(10_000))
    assert all(1700 < count < 2300 for count in chosen.values())  # 7.5 sigma


def test_one_node_is_always_chosen() -> None:
    for selector in (RandomSelector(), RoundRobinSelector()):
        assert {selector.choose(NODES[:1]).id for _ in range(10)} == {"0"}
