"""One node and one Chromium for the folder; each test signs its own people up."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.web.browser import CHROMIUM, NO_CHROMIUM, Node, Person, join_page, open_browser, open_node
from tests.web.notify_app import AppBot, open_app_bot, set_up_types


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium; where none is installed the tests say so and are skipped."""
    if not CHROMIUM:
        pytest.skip(NO_CHROMIUM)
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="session")
def node(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that is left alone."""
    with open_node(tmp_path_factory.mktemp("node")) as opened:
        yield opened


@pytest.fixture(scope="session")
def app_node(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node whose app has types of notifications of its own."""
    data_dir = tmp_path_factory.mktemp("notify")
    set_up_types(data_dir)
    with open_node(data_dir) as opened:
        yield opened


@pytest.fixture(scope="session")
def bot(app_node: Node) -> Iterator[AppBot]:
    """A bot of that app, which may notify its users."""
    with open_app_bot(app_node) as opened:
        yield opened


@pytest.fixture
def frail_node(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node of one test, which may kill it."""
    with open_node(tmp_path_factory.mktemp("frail")) as opened:
        yield opened


@pytest.fixture(scope="session")
def blank(browser: Browser, node: Node) -> Iterator[Page]:
    """A page of the node's origin that runs nothing by itself."""
    context = browser.new_context(base_url=node.url)
    page = context.new_page()
    page.goto("/icon.svg")
    yield page
    context.close()


Join = Callable[..., Person]


@pytest.fixture
def join(browser: Browser) -> Iterator[Join]:
    """Sign people up and open the page for them; at the end nothing may have gone wrong in any of them."""
    people: list[Person] = []

    def join_one(node: Node, name: str, **context_options: Any) -> Person:
        person = join_page(browser, node, name, **context_options)
        people.append(person)
        return person

    yield join_one
    for person in people:
        person.context.close()
    problems = [problem for person in people for problem in person.problems]
    assert not problems, "\n".join(problems)
