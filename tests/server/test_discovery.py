"""Which nodes are recommended: what clients, and the nodes that they land on, rely on."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.types import NodeInfo
from server.discovery import ClusterOrigins, load_of, origin_of_node, recommend
from server.http.edge import PAGE_POLICY, page_policy


def node(name: str, *, load: float = 0.0, zone: str = "", draining: bool = False) -> NodeInfo:
    return NodeInfo(node_id=name, url=f"ws://{name}:8080/ws", zone=zone, load=load, draining=draining)


NODES = st.lists(
    st.builds(
        node,
        st.text("abcdef", min_size=1, max_size=8),
        load=st.floats(0, 1),
        zone=st.sampled_from(["", "east", "west"]),
        draining=st.booleans(),
    ),
    max_size=8,
    unique_by=lambda one: one.node_id,
)


@given(nodes=NODES, zone=st.sampled_from(["", "east", "north"]), seed=st.integers())
def test_every_node_is_named_once_with_those_that_should_be_tried_last_at_the_end(
    nodes: list[NodeInfo], zone: str, seed: int
) -> None:
    """A client works through the list: nothing is missing, and what is worse never stands before what is
    better."""
    found = recommend(nodes, zone=zone, chance=random.Random(seed).random)
    assert sorted(one.node_id for one in found) == sorted(one.node_id for one in nodes)
    tiers = [(one.draining, one.load >= 0.95, bool(zone) and one.zone != zone) for one in found]
    assert tiers == sorted(tiers)
    assert recommend(nodes, zone=zone, chance=random.Random(seed).random, limit=3) == found[:3]


def test_a_thousand_that_ask_at_once_are_spread_over_equals() -> None:
    """The node that has one connection less than the others is not run over."""
    nodes = [node("a", load=0.20), node("b", load=0.21), node("c", load=0.19)]
    chance = random.Random(7).random
    first = Counter(recommend(nodes, chance=chance)[0].node_id for _ in range(1000))
    assert min(first.values()) > 250


def test_the_busier_of_two_gets_less() -> None:
    """Loads grow together, and a node that lags is left alone."""
    nodes = [node("busy", load=0.8), node("calm", load=0.2)]
    chance = random.Random(7).random
    first = Counter(recommend(nodes, chance=chance)[0].node_id for _ in range(1000))
    assert 20 < first["busy"] < 120


def test_the_own_zone_comes_first_as_long_as_it_has_room() -> None:
    """Traffic between zones costs time and money; no room costs more."""
    nodes = [node("far", zone="west"), node("near", zone="east", load=0.9)]
    chance = random.Random(7).random
    assert {recommend(nodes, zone="east", chance=chance)[0].node_id for _ in range(100)} == {"near"}
    full = [node("far", zone="west"), node("near", zone="east", load=0.97)]
    assert {recommend(full, zone="east", chance=chance)[0].node_id for _ in range(100)} == {"far"}


@pytest.mark.parametrize(
    ("count", "lag_s", "load"),
    [
        (0, 0.0, 0.0),
        (5_000, 0.01, 0.5),
        (100, 0.25, 0.5),
        (10_000, 0.0, 1.0),
        (0, 3.0, 1.0),
        (20_000, 9.0, 1.0),
    ],
)
def test_load_is_how_close_a_node_is_to_turning_newcomers_away(count: int, lag_s: float, load: float) -> None:
    """1.0 means the same on a large and on a small machine."""
    assert load_of(connection_count=count, max_connections=10_000, lag_s=lag_s) == load


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("wss://Chat.example.com/ws", "https://chat.example.com"),
        ("wss://chat.example.com:443/ws", "https://chat.example.com"),
        ("ws://10.0.0.5:8080/ws", "http://10.0.0.5:8080"),
        ("ws://[::1]:8080/ws", "http://[::1]:8080"),
        ("wss://user:secret@h/ws", "https://h"),
        ("ftp://h/", ""),
        ("ws://", ""),
        ("", ""),
        ("ws://[::1", ""),
        ("ws://h:99999/ws", ""),
    ],
)
def test_the_origin_of_a_nodes_page_is_what_a_browser_sends(url: str, origin: str) -> None:
    """Compared as text with the Origin header."""
    assert origin_of_node(NodeInfo(node_id="n", url=url)) == origin


def test_the_page_of_a_node_that_has_died_may_still_call_the_others() -> None:
    """That page is the one that has to move."""
    nodes = [NodeInfo(node_id="a", url="ws://10.0.0.1:1/ws"), NodeInfo(node_id="b", url="ws://10.0.0.2:1/ws")]
    origins = ClusterOrigins(lambda: nodes)
    assert origins() == ("http://10.0.0.1:1", "http://10.0.0.2:1")
    del nodes[0]
    nodes.append(NodeInfo(node_id="c", url="ws://10.0.0.3:1/ws"))
    assert origins() == ("http://10.0.0.2:1", "http://10.0.0.3:1", "http://10.0.0.1:1")


def test_a_node_on_ones_own_machine_is_known_by_all_its_names() -> None:
    """People type localhost, nodes say 127.0.0.1."""
    origins = ClusterOrigins(lambda: [NodeInfo(node_id="a", url="ws://127.0.0.1:8080/ws")])
    assert "http://localhost:8080" in origins()
    assert "http://localhost.evil.example:8080" not in origins()


def test_a_page_may_reach_the_other_nodes_and_nothing_else() -> None:
    """Without this the browser itself keeps the page from moving to another node."""
    assert page_policy(()) == PAGE_POLICY
    policy = page_policy(["https://b.example", "http://[::1]:8080"])
    assert "connect-src 'self' https://b.example wss://b.example;" in policy
    assert "img-src 'self' https://b.example data: blob:;" in policy
    assert "script-src 'self';" in policy
    assert len(page_policy([f"https://node-{number}.chat.example.com" for number in range(100)])) < 4000
