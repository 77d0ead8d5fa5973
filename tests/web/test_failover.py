"""The page goes on at another node of its cluster: in real browsers, with nodes that share one store."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.web.browser import Node, message, png, texts
from tests.web.conftest import Join

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def pair(browser: Browser, tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    """Two nodes that name each other; the second one is started by the test when the first is gone."""
    nodes = [Node(tmp_path / "data", module="tests.web.told_node") for _ in range(2)]
    for number, node in enumerate(nodes, 1):
        node.environment = {
            "TOLD_NODES": ",".join(one.url for one in nodes),
            "HUBBUB_NODE_ID": f"node-{number}",
            "HUBBUB_ORIGINS": "https://elsewhere.example",
        }
    nodes[0].start()
    try:
        yield nodes[0], nodes[1]
    finally:
        for node in nodes:
            node.kill()


def node_of(page: Page, sockets: list[str]) -> str:
    expect(page.locator("html[data-connection=open]")).to_be_attached(timeout=60_000)
    return sockets[-1]


def test_pages_of_a_killed_node_go_on_at_another_one(
    pair: tuple[Node, Node], join: Join, tmp_path: Path
) -> None:
    """Nothing is lost or doubled, nobody reloads, and pictures go up and down through the other node too."""
    first, second = pair
    ann, bob = join(first, "Ann Moves"), join(first, "Bob Moves")
    sockets: list[str] = []
    ann.page.on("websocket", lambda socket: sockets.append(socket.url))
    ann.start_direct(bob)
    bob.open("Ann Moves")
    ann.send("before")
    expect(message(bob.page, "before")).to_be_visible()
    first.kill()
    expect(ann.page.get_by_text("Connecting…")).to_be_visible()
    for number in range(3):
        ann.send(f"in between {number}")
    expect(ann.page.locator(".message.pending")).to_have_count(3)
    second.start()
    assert node_of(ann.page, sockets) == f"ws://127.0.0.1:{second.port}/ws"
    expected = ["before", "in between 0", "in between 1", "in between 2"]
    for person in (ann, bob):
        expect(person.page.locator(".conversation .message")).to_have_count(4, timeout=60_000)
        expect(person.page.locator(".message.pending")).to_have_count(0)
        assert texts(person.page) == expected
    picture = tmp_path / "square.png"
    picture.write_bytes(png(48, 32))
    ann.page.get_by_label("Choose files").set_input_files([picture])
    expect(ann.page.locator(".tray-item.ready")).to_have_count(1)
    ann.send("a picture")
    image = message(bob.page, "a picture").locator(".picture img")
    expect(image).to_be_visible()
    bob.page.wait_for_function("image => image.naturalWidth === 48", arg=image.element_handle())
    assert str(image.get_attribute("src")).startswith(second.url)
    assert str(message(bob.page, "a picture").locator("a.picture").get_attribute("href")).startswith(
        second.url
    )


def test_pages_leave_a_node_that_stops(pair: tuple[Node, Node], join: Join) -> None:
    """A rolling restart: the page was told where to go, and goes there as soon as somebody is there."""
    first, second = pair
    ann = join(first, "Ann Rolls")
    sockets: list[str] = []
    ann.page.on("websocket", lambda socket: sockets.append(socket.url))
    first.stop()
    second.start()
    assert node_of(ann.page, sockets) == f"ws://127.0.0.1:{second.port}/ws"


def test_pages_leave_a_node_that_is_frozen(pair: tuple[Node, Node], join: Join) -> None:
    """Its sockets stay open and say nothing; what was written goes out by the other node, once."""
    first, second = pair
    # Two nodes share a directory as a cluster only, so the second one starts when the first is really gone.
    ann, bob = join(first, "Ann Frost"), join(first, "Bob Frost")
    ann.start_direct(bob)
    ann.send("before")
    expect(message(ann.page, "before").locator(".tick")).to_be_visible()
    first.freeze()
    ann.send("into the ice")
    expect(ann.page.get_by_text("Connecting…")).to_be_visible(timeout=35_000)  # 10 s, 12 s, and a tick
    first.kill()
    second.start()
    expect(message(ann.page, "into the ice").locator(".tick")).to_be_visible(timeout=60_000)
    assert texts(ann.page) == ["before", "into the ice"]


# -- the order of places, as the page decides it -------------------------------------------------------

WALK = """
async ({ page, told, opened, rounds }) => {
  const { Nodes } = await import("/js/nodes.js");
  const nodes = new Nodes({ page });
  nodes.learn(told);
  if (opened) nodes.opened(...opened);
  const walked = [];
  for (let round = 0; round < (rounds || 1); round++) {
    do walked.push(nodes.next());
    while (nodes.failed(walked.at(-1)));
  }
  return walked;
}
"""


def walk(tab: Page, /, **arguments: Any) -> list[str]:
    walked: list[str] = tab.evaluate(WALK, arguments)
    return walked


def told(*names: str, **more: Any) -> list[dict[str, Any]]:
    return [{"node_id": name, "url": f"ws://{name}:8080/ws", **more} for name in names]


def test_the_page_tries_the_others_then_its_own_origin_and_the_lost_node_last(blank: Page) -> None:
    """As the SDK does (tests/hubbub/test_nodes.py): a dead node costs nothing, a wrong list one round."""
    nodes = [*told("a", "b"), *told("c", draining=True), *told("d", load=0.99)]
    walked = walk(blank, page="http://lb:8080/", told=nodes, opened=["ws://a:8080/ws", "a"])
    assert walked[:2] == ["ws://b:8080/ws", "ws://lb:8080/ws"]
    assert sorted(walked[2:4]) == ["ws://c:8080/ws", "ws://d:8080/ws"]
    assert walked[4:] == ["ws://a:8080/ws"]
    zones = [*told("far", zone="west"), *told("a", zone="east"), *told("near", zone="east", load=0.9)]
    walked = walk(blank, page="http://a:8080/", told=zones, opened=["ws://a:8080/ws", "a"])
    assert walked == ["ws://near:8080/ws", "ws://far:8080/ws", "ws://a:8080/ws"]


def test_each_round_goes_to_each_place_once(blank: Page) -> None:
    """None is forgotten, none is hammered."""
    walked = walk(blank, page="http://a:8080/", told=told("a", "b", "c"), rounds=3)
    assert len(walked) == 9
    for start in (0, 3, 6):
        assert len(set(walked[start : start + 3])) == 3


@pytest.mark.parametrize(
    ("page", "url", "is_trusted"),
    [
        ("http://h/", "ws://o:1/ws", True),
        ("http://h/", "wss://o/ws", True),
        ("https://h/", "wss://o/ws", True),
        ("https://h/", "ws://o/ws", False),
        ("https://h/", "http://o/", False),
        ("http://h/", "javascript:alert(1)", False),
        ("http://h/", "nonsense", False),
        ("http://h/", "ws://127.0.0.1:1/ws", False),
        ("http://h/", "ws://127.1:1/ws", False),
        ("http://h/", "ws://localhost:1/ws", False),
        ("http://h/", "ws://[::1]:1/ws", False),
        ("http://h/", "ws://[::ffff:127.0.0.1]:1/ws", False),
        ("http://localhost:2/", "ws://127.0.0.1:1/ws", True),
    ],
)
def test_a_token_goes_only_where_it_is_as_safe_as_at_home(
    blank: Page, page: str, url: str, is_trusted: bool
) -> None:
    """Never without TLS where the page has it, never to whatever listens on the reader's own machine."""
    walked = walk(blank, page=page, told=[{"node_id": "n", "url": url}])
    assert (len(walked) == 2) is is_trusted


def test_http_goes_home_as_long_as_that_answers(blank: Page) -> None:
    """Caches and certificates are best there; elsewhere only where nobody is at home."""
    bases = """
    async () => {
      const { Nodes } = await import("/js/nodes.js");
      let now = 0;
      const nodes = new Nodes({ page: "http://a:8080/", now: () => now });
      nodes.learn([{ node_id: "a", url: "ws://a:8080/ws" }, { node_id: "b", url: "ws://b:8080/ws" },
        { node_id: "c", url: "ws://c:8080/ws" }]);
      nodes.opened("ws://c:8080/ws", "c");
      const all = [nodes.bases()];
      nodes.httpFailed("");
      all.push(nodes.bases());
      now = 31_000;
      all.push(nodes.bases());
      return all;
    }
    """
    at_home, away, back = blank.evaluate(bases)
    assert at_home == back == ["", "http://c:8080", "http://b:8080"]
    assert away == ["http://c:8080", "http://b:8080", ""]


ASK = """
async ({ type, answers, patience_ms }) => {
  const { askPatiently } = await import("/js/patience.js");
  let count = 0;
  const ask = async () => {
    const answer = answers[Math.min(count++, answers.length - 1)];
    if (answer !== "ok") throw { code: answer, retry_after_s: answer === "disconnected" ? null : 0.01 };
    return { type: "ok" };
  };
  try {
    await askPatiently(ask, { type }, patience_ms);
    return ["ok", count];
  } catch (error) {
    return [error.code, count];
  }
}
"""


@pytest.mark.parametrize(
    ("command", "answers", "patience_ms", "end"),
    [
        ("react", ["moved", "disconnected", "ok"], 20_000, ["ok", 3]),
        ("react", ["not_member"], 20_000, ["not_member", 1]),
        ("leave", ["disconnected", "not_member"], 20_000, ["ok", 2]),
        ("leave", ["busy", "not_member"], 20_000, ["not_member", 2]),
        ("create_invite", ["disconnected", "ok"], 20_000, ["disconnected", 1]),
        ("react", ["moved"], 0, ["moved", 1]),
    ],
)
def test_what_a_person_does_outlasts_a_change_of_nodes(
    blank: Page, command: str, answers: list[str], patience_ms: int, end: list[Any]
) -> None:
    """A reaction in the wrong second is no error message; a final refusal is one at once."""
    assert blank.evaluate(ASK, {"type": command, "answers": answers, "patience_ms": patience_ms}) == end
