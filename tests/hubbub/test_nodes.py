"""Where a client goes when its node is gone: the order of places, and what is never trusted."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub.endpoint import Endpoint, node_endpoint, parse_url, parse_urls
from hubbub.nodes import Nodes
from protocol.types import NodeInfo


def node(name: str, *, load: float = 0.0, zone: str = "", draining: bool = False) -> NodeInfo:
    return NodeInfo(node_id=name, url=f"ws://{name}:8080/ws", zone=zone, load=load, draining=draining)


def places(*names: str) -> list[Endpoint]:
    return [parse_url(f"ws://{name}:8080") for name in names]


def make(*configured: str, seed: int = 1) -> Nodes:
    return Nodes(places(*configured), random.Random(seed).random)


def walk(nodes: Nodes) -> list[str]:
    """The hosts that one round goes to, where none of them answers."""
    found = [nodes.next()]
    while nodes.failed(found[-1]):
        found.append(nodes.next())
    return [endpoint.host for endpoint in found]


@given(
    configured=st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True),
    told=st.lists(st.sampled_from("abcdef"), max_size=6, unique=True),
    seed=st.integers(),
)
def test_a_round_goes_to_each_place_once(configured: list[str], told: list[str], seed: int) -> None:
    """No place is forgotten, and none is hammered; the next round has them all again."""
    nodes = make(*configured, seed=seed)
    nodes.learn([node(name) for name in told])
    for _round in range(3):
        assert sorted(walk(nodes)) == sorted({*configured, *told})


def test_the_others_come_first_then_what_the_user_gave_and_the_lost_node_last() -> None:
    """A dead node costs nothing; a wrong list costs one round, not the way back."""
    nodes = make("lb")
    nodes.learn([node("a"), node("b"), node("c", draining=True), node("d", load=0.99)])
    nodes.opened(places("a")[0], "a")
    walked = walk(nodes)
    assert walked[:2] == ["b", "lb"]
    assert sorted(walked[2:4]) == ["c", "d"]
    assert walked[4] == "a"


def test_what_could_not_be_reached_stands_behind_what_the_user_gave() -> None:
    """Nodes that tell addresses of an inner network must not cost five seconds each time."""
    nodes = make("lb")
    nodes.learn([node("inner1"), node("inner2")])
    nodes.opened(places("lb")[0], "inner1")
    assert walk(nodes) == ["inner2", "lb", "inner1"]
    nodes.opened(places("lb")[0], "inner1")
    nodes.learn([node("inner1"), node("inner2")])
    assert walk(nodes) == ["lb", "inner2", "inner1"]
    nodes.opened(places("inner2")[0], "inner2")
    assert walk(nodes) == ["lb", "inner1", "inner2"]


def test_one_node_by_itself_is_gone_back_to_where_it_was_found() -> None:
    """Its public address may not work from inside; the one in use did."""
    nodes = make("127.0.0.1")
    nodes.learn([node("public")])
    nodes.opened(places("127.0.0.1")[0], "public")
    assert walk(nodes) == ["127.0.0.1", "public"]


def test_the_clients_of_a_dead_node_spread_over_the_others() -> None:
    """Each has the same list; together they must not run one node over."""
    first: Counter[str] = Counter()
    for seed in range(300):
        nodes = make("a", seed=seed)
        nodes.learn([node("a"), node("b", load=0.5), node("c", load=0.5), node("d", load=0.9)])
        nodes.opened(places("a")[0], "a")
        first[nodes.next().host] += 1
    assert min(first["b"], first["c"]) > 100
    assert first["a"] == 0
    assert first["d"] < 40


def test_the_zone_of_the_lost_node_comes_first() -> None:
    """The client stood near to it."""
    nodes = make("a")
    nodes.learn([node("far", zone="west"), node("a", zone="east"), node("near", zone="east", load=0.9)])
    nodes.opened(places("a")[0], "a")
    assert walk(nodes) == ["near", "far", "a"]


def test_an_empty_list_says_nothing_new() -> None:
    """A single node that stops names none; what was known stays."""
    nodes = make("a")
    nodes.learn([node("b")])
    nodes.learn([])
    assert sorted(walk(nodes)) == ["a", "b"]


@pytest.mark.parametrize(
    ("configured", "told", "where"),
    [
        ("ws://h:1", NodeInfo(node_id="n", url="ws://o:2/ws"), "ws://o:2/ws"),
        ("ws://h:1", NodeInfo(node_id="n", url="wss://o/ws"), "wss://o:443/ws"),
        ("wss://h", NodeInfo(node_id="n", url="wss://o/ws"), "wss://o:443/ws"),
        ("wss://h", NodeInfo(node_id="n", url="ws://o/ws"), None),
        ("https://h", NodeInfo(node_id="n", url="http://o:8080"), None),
        ("wss://h", NodeInfo(node_id="n", url="hubbubs://o"), None),
        ("wss://h", NodeInfo(node_id="n", url="file:///etc/passwd"), None),
        ("wss://h", NodeInfo(node_id="n", url=""), None),
        ("ws://h", NodeInfo(node_id="n", url="ws://o:port/ws"), None),
        # Whatever listens on the client's own machine must not get its token.
        ("ws://chat.example", NodeInfo(node_id="n", url="ws://127.0.0.1:8080/ws"), None),
        ("ws://chat.example", NodeInfo(node_id="n", url="ws://localhost:8080/ws"), None),
        ("ws://chat.example", NodeInfo(node_id="n", url="ws://[::1]:8080/ws"), None),
        ("ws://chat.example", NodeInfo(node_id="n", url="ws://[::ffff:127.0.0.1]:8080/ws"), None),
        ("ws://chat.example", NodeInfo(node_id="n", url="ws://0.0.0.0:8080/ws"), None),
        ("ws://chat.example", NodeInfo(node_id="n", url="ws://127.1:8080/ws"), None),
        ("ws://chat.example", NodeInfo(node_id="n", url="ws://2130706433:8080/ws"), None),
        ("ws://localhost:1", NodeInfo(node_id="n", url="ws://127.0.0.1:2/ws"), "ws://127.0.0.1:2/ws"),
        # Bots: the bot port, with the TLS that they have.
        ("hubbub://h", NodeInfo(node_id="n", url="ws://o", bot_address="o:9"), "hubbub://o:9"),
        ("hubbubs://h", NodeInfo(node_id="n", url="ws://o", bot_address="o:9"), "hubbubs://o:9"),
        ("hubbubs://h", NodeInfo(node_id="n", url="ws://o", bot_address="hubbub://o:9"), None),
        ("hubbub://h", NodeInfo(node_id="n", url="ws://o"), None),
        ("hubbub://h", NodeInfo(node_id="n", url="ws://o", bot_address="ws://o"), None),
        ("hubbub://h", NodeInfo(node_id="n", url="", bot_address="localhost:9"), None),
    ],
)
def test_a_token_goes_to_a_node_only_as_safely_as_the_user_asked(
    configured: str, told: NodeInfo, where: str | None
) -> None:
    """A list from the server never takes TLS away, and never points a client at its own machine."""
    endpoint = node_endpoint(told, [parse_url(configured)])
    assert (None if endpoint is None else str(endpoint)) == where


@pytest.mark.parametrize(
    "url", ["ws://a:1,ws://b:2", " ws://a:1 , ws://b:2,", ["ws://a:1", "ws://b:2"], ["http://a:1,ws://b:2"]]
)
def test_several_addresses_are_given_as_a_list_or_with_commas(url: str | list[str]) -> None:
    """One environment variable, or one setting with a list."""
    assert [str(endpoint) for endpoint in parse_urls(url)] == ["ws://a:1/ws", "ws://b:2/ws"]


@pytest.mark.parametrize(
    "url", ["", ",", [], "wss://a,ws://b", "hubbub://a,ws://b", ["hubbubs://a", "hubbub://b"]]
)
def test_addresses_that_do_not_belong_together_are_refused(url: str | list[str]) -> None:
    """A typing error must not send a token without TLS."""
    with pytest.raises(ValueError, match=r"."):
        parse_urls(url)
