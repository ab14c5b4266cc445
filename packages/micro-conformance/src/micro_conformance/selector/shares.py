"""Who gets how many calls. The bounds are those of chance: once in 10^8 a sound one fails."""

from __future__ import annotations

import random
from collections import Counter, deque

from micro_core import Node, Selector

from ..promise import promise
from ..suite import Suite
from .lab import TOOK, Nodes, SelectorLab, chosen, missing


class Shares(Suite[Selector]):
    """``tolerance``: of what a node is due, it gets at least this part, and at most as many times
    it, over some thousand calls."""

    tolerance: float = 0.7

    def weight(self, node: Node) -> float:
        """What a node is due, in relation to others; override it for one that weighs them."""
        return 1.0

    @promise()
    async def test_every_node_gets_its_turn(self, lab: SelectorLab) -> None:
        """Of seven nodes every one is chosen within three hundred calls."""
        selector, nodes = lab.make(), lab.nodes(7)
        left = missing(nodes, chosen(selector, nodes, 300))
        assert not left, f"never chosen: {left}"

    @promise()
    async def test_the_shares_are_as_declared(self, lab: SelectorLab) -> None:
        """Calls one after the other are spread over equal nodes evenly, or as their weights say."""
        selector, nodes = lab.make(), lab.nodes(5)
        self._are_fair(nodes, chosen(selector, nodes, 2000))

    @promise()
    async def test_the_shares_hold_while_many_are_in_flight(self, lab: SelectorLab) -> None:
        """With fifty calls under way at any time, equal nodes get equal shares."""
        selector, nodes = lab.make(), lab.nodes(5)
        flying: deque[Node] = deque()
        found: Counter[str] = Counter()
        for number in range(2050):
            node = selector.choose(nodes)
            selector.started(node)
            flying.append(node)
            found[node.id] += 1
            if number >= 50:
                selector.finished(flying.popleft(), None, TOOK)
        self._are_fair(nodes, found)

    @promise()
    async def test_services_do_not_disturb_each_other(self, lab: SelectorLab) -> None:
        """Calls of two services in turn are spread over the nodes of both evenly."""
        selector = lab.make()
        sets = [lab.nodes(4), lab.nodes(4, first=10)]
        found = [Counter[str](), Counter[str]()]
        for number in range(4000):
            found[number % 2] += chosen(selector, sets[number % 2], 1)
        for nodes, counts in zip(sets, found, strict=True):
            self._are_fair(nodes, counts)

    @promise()
    async def test_sets_made_anew_are_spread_over(self, lab: SelectorLab) -> None:
        """A set that is another object for every call is spread over as well."""
        selector = lab.make()
        found: Counter[str] = Counter()
        for _ in range(2000):
            found += chosen(selector, lab.nodes(5), 1)
        self._are_fair(lab.nodes(5), found)

    @promise()
    async def test_a_set_that_grows_and_shrinks_is_spread_over(self, lab: SelectorLab) -> None:
        """While other nodes come and go, those that stay get their shares."""
        selector = lab.make()
        small, large = lab.nodes(3), lab.nodes(6)
        found: Counter[str] = Counter()
        for number in range(3000):
            found += chosen(selector, (small, large)[number // 100 % 2], 1)
        self._are_fair(small, Counter({node.id: found[node.id] for node in small}))

    @promise()
    async def test_many_clients_spread(self, lab: SelectorLab) -> None:
        """The first choices of many clients fall on all nodes, also if all have one random seed."""
        nodes = lab.nodes(5)
        found: Counter[str] = Counter()
        state = random.getstate()
        try:
            for _ in range(2000):
                random.seed(7)
                found[lab.make().choose(nodes).id] += 1
        finally:
            random.setstate(state)
        self._are_fair(nodes, found)

    def _are_fair(self, nodes: Nodes, found: Counter[str]) -> None:
        total = found.total()
        weights = {node.id: self.weight(node) for node in nodes}
        for id, weight in weights.items():
            due = total * weight / sum(weights.values())
            got = found[id]
            fair = due * self.tolerance <= got <= due / self.tolerance
            assert fair, f"of {total} calls {id} is due {due:g} and got {got}: {dict(found)}"
