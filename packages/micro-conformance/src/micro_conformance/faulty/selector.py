"""Selectors with one fault each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from micro_core import MicroError, Node
from micro_core.selector.random import RandomSelector
from micro_core.selector.roundrobin import RoundRobinSelector

from ..mutants import mutant


@mutant("test_it_chooses_one_of_the_given_nodes")
class GivesCopies(RandomSelector):
    """What is chosen is equal to a node, and is not that node."""

    def choose(self, nodes: Sequence[Node]) -> Node:
        return replace(super().choose(nodes))


@mutant("test_every_node_gets_its_turn")
class UsesSix(RandomSelector):
    """Only the first six nodes of a set are ever chosen."""

    def choose(self, nodes: Sequence[Node]) -> Node:
        return super().choose(nodes[:6])


@mutant("test_the_shares_are_as_declared")
class PrefersTheFirst(RandomSelector):
    """The first node of a set is chosen three times as often as any other."""

    def choose(self, nodes: Sequence[Node]) -> Node:
        return super().choose((nodes[0], nodes[0], *nodes))


class Remembering(RandomSelector):
    """Keeps what it is told, for the faults below."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Node] = {}

    def choose(self, nodes: Sequence[Node]) -> Node:
        node = super().choose(nodes)
        if len(self.kept) < 1000:
            self.kept.setdefault(node.id, node)
        return node


@mutant("test_a_node_that_moved_is_called_where_it_is")
class KeepsTheFirstAddress(Remembering):
    """A node is called at the address it had first."""

    def choose(self, nodes: Sequence[Node]) -> Node:
        node = super().choose(nodes)
        kept = self.kept.get(node.id, node)
        return node if kept.address == node.address else kept


@mutant("test_a_new_set_is_used_at_once")
class KeepsTheFirstSet(RandomSelector):
    """Of a set of four, the one seen first is used for a hundred more choices."""

    def __init__(self) -> None:
        super().__init__()
        self._first: Sequence[Node] = ()
        self._left = 200

    def choose(self, nodes: Sequence[Node]) -> Node:
        if len(nodes) != 4:
            return super().choose(nodes)
        self._first = self._first or nodes
        self._left -= 1
        return super().choose(self._first if self._left > 0 else nodes)


@mutant("test_a_node_that_comes_back_is_used")
class BansWhoLeft(RandomSelector):
    """A node that was missing from a set once is not chosen again."""

    def __init__(self) -> None:
        super().__init__()
        self._before: frozenset[str] = frozenset()
        self._gone: set[str] = set()

    def choose(self, nodes: Sequence[Node]) -> Node:
        ids = frozenset(node.id for node in nodes) if len(nodes) < 10 else self._before
        if ids != self._before and len(self._gone) < 1000:
            self._gone |= self._before - ids
            self._before = ids
        return super().choose([n for n in nodes if n.id not in self._gone] or nodes)


@mutant("test_nothing_is_awaited")
class Asynchronous(RandomSelector):
    """What it is told of attempts has to be awaited, which nobody does."""

    async def started(self, node: Node) -> None:  # type: ignore[override]
        super().started(node)


@mutant("test_the_programs_random_numbers_are_its_own", "test_many_clients_spread")
class SharesTheDice(RandomSelector):
    """It draws from the program's own random numbers."""

    def choose(self, nodes: Sequence[Node]) -> Node:
        return random.choice(nodes)


@mutant("test_choosing_costs_the_same_among_many")
class SortsEveryTime(RandomSelector):
    """Every choice sorts all nodes by their addresses."""

    def choose(self, nodes: Sequence[Node]) -> Node:
        return super().choose(sorted(nodes, key=lambda node: node.address))


@mutant("test_memory_is_bounded")
class NeverForgets(RandomSelector):
    """Every node there ever was is kept."""

    def __init__(self) -> None:
        super().__init__()
        self._ever: dict[str, Node] = {}

    def started(self, node: Node) -> None:
        self._ever[node.id] = node


class Turns(RoundRobinSelector):
    """One turn for all sets, from a start of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = random.SystemRandom().randrange(1 << 16)

    def choose(self, nodes: Sequence[Node]) -> Node:
        self.turn += 1
        return nodes[self.turn % len(nodes)]


@mutant("test_services_do_not_disturb_each_other")
class OneTurnForAll(Turns):
    """Two services share one turn, so that calls of both by turns reach half of the nodes."""


@mutant("test_many_clients_spread")
class StartsAtTheFirst(Turns):
    """Every client begins with the first node."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = -1


@mutant("test_sets_made_anew_are_spread_over")
class BeginsAnewWithEachSet(RandomSelector):
    """Whenever the set is another object, its turns begin with its first node."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: Sequence[Node] = ()

    def choose(self, nodes: Sequence[Node]) -> Node:
        if not self._seen:
            self._seen = nodes
        if nodes is not self._seen:
            self._seen = nodes
            return nodes[0]
        return super().choose(nodes)


class Counting(RandomSelector):
    """Prefers those that are the least busy."""

    def __init__(self) -> None:
        super().__init__()
        self.flying: dict[str, int] = {}

    def choose(self, nodes: Sequence[Node]) -> Node:
        least = min(self.flying.get(node.id, 0) for node in nodes)
        return super().choose([n for n in nodes if self.flying.get(n.id, 0) == least])

    def started(self, node: Node) -> None:
        self.flying[node.id] = self.flying.get(node.id, 0) + 1

    def finished(self, node: Node, error: BaseException | None, seconds: float) -> None:
        left = self.flying.get(node.id, 0) - 1
        if left > 0:
            self.flying[node.id] = left
        else:
            self.flying.pop(node.id, None)


@mutant("test_attempts_that_ended_are_forgotten")
class CountsOnlySuccesses(Counting):
    """An attempt that failed counts as under way for ever."""

    def finished(self, node: Node, error: BaseException | None, seconds: float) -> None:
        if error is None:
            super().finished(node, error, seconds)


@mutant("test_an_end_without_a_beginning_is_harmless")
class TrustsTheCaller(Counting):
    """The end of an attempt that it has not heard of is a KeyError."""

    def finished(self, node: Node, error: BaseException | None, seconds: float) -> None:
        self.flying[node.id] -= 1


@mutant("test_attempts_may_end_in_any_order")
class EndsInOrder(Counting):
    """Attempts have to end in the order in which they began."""

    def __init__(self) -> None:
        super().__init__()
        self._queue: list[str] = []

    def started(self, node: Node) -> None:
        super().started(node)
        self._queue.append(node.id)

    def finished(self, node: Node, error: BaseException | None, seconds: float) -> None:
        super().finished(node, error, seconds)
        if self._queue and self._queue.pop(0) != node.id and self.flying:
            raise LookupError(node.id)


@mutant("test_the_shares_hold_while_many_are_in_flight")
class PilesUp(Counting):
    """The busier nodes are preferred."""

    def choose(self, nodes: Sequence[Node]) -> Node:
        drawn = [RandomSelector.choose(self, nodes) for _ in range(4)]
        return max(drawn, key=lambda node: self.flying.get(node.id, 0))


@mutant("test_every_error_is_taken", "test_one_node_is_always_chosen")
class ReadsTheCode(RandomSelector):
    """Every error of an attempt is taken for one that has a code."""

    def finished(self, node: Node, error: BaseException | None, seconds: float) -> None:
        if error is not None and error.code < 100:  # type: ignore[attr-defined]
            raise ValueError(error)


class Blaming(RandomSelector):
    """Passes over nodes that failed."""

    def __init__(self) -> None:
        super().__init__()
        self.blamed: set[str] = set()

    def choose(self, nodes: Sequence[Node]) -> Node:
        good = [node for node in nodes if node.id not in self.blamed] if self.blamed else nodes
        return super().choose(good or self.when_none(nodes))

    def when_none(self, nodes: Sequence[Node]) -> Sequence[Node]:
        self.blamed.clear()
        return nodes

    def finished(self, node: Node, error: BaseException | None, seconds: float) -> None:
        if isinstance(error, MicroError) and error.code >= 500:
            self.blamed.add(node.id)


@mutant("test_a_node_that_failed_is_tried_again")
class NeverForgives(Blaming):
    """A node that failed is passed over for as long as there is another."""


@mutant("test_when_all_fail_all_are_tried")
class GivesUpOnAll(Blaming):
    """When every node has failed, only the first is tried."""

    def when_none(self, nodes: Sequence[Node]) -> Sequence[Node]:
        return nodes[:1]


@mutant("test_a_set_that_grows_and_shrinks_is_spread_over")
class PrefersTheOldest(Remembering):
    """Nodes that it knew before the set grew get nearly all calls."""

    def choose(self, nodes: Sequence[Node]) -> Node:
        if len(nodes) == 6 and nodes[0].id in self.kept:
            return nodes[0]
        return super().choose(nodes)
