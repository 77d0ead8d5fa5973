"""People read, mark and choose notifications by the page: the badge is exact, and tabs stay in step."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, WebSocketRoute, expect

from tests.web.browser import Node, Person
from tests.web.conftest import Join
from tests.web.notify_app import AppBot, fake_subscription
from tests.web.test_feed import tell, visit

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]

# What waits for its seconds lies in the browser's store with its time.
SECONDS_ARE_OVER = """
() => {
  const key = Object.keys(localStorage).find((one) => one.includes("marks"));
  const kept = JSON.parse(localStorage.getItem(key)).map((mark) => ({ ...mark, due_ms: 1 }));
  localStorage.setItem(key, JSON.stringify(kept));
}
"""
WHOLE_DAY = {"start": "00:00", "end": "23:59"}


def bell(page: Page) -> Locator:
    return page.get_by_role("button", name=re.compile("^Alerts: "))


def badge(page: Page, count: int) -> None:
    """The bell shows that count, and so does what a screen reader says."""
    expect(bell(page)).to_have_accessible_name(re.compile(f"^Alerts: {count or 'no'} unread"))
    if count:
        expect(bell(page).locator(".count")).to_have_text(str(count))
    else:
        expect(bell(page).locator(".count")).to_be_hidden()


def open_panel(page: Page) -> Locator:
    bell(page).click()
    panel = page.get_by_role("dialog", name="Notifications")
    expect(panel).to_be_visible()
    return panel


def row(page: Page, text: str) -> Locator:
    return page.locator(".notification", has_text=text)


def open_settings(person: Person) -> None:
    visit(person, "notification-settings")
    expect(person.page.get_by_role("region", name="In general")).to_be_visible()


def answered(page: Page, command: str, answer: Callable[[], dict[str, Any] | None]) -> None:
    """Let the page's next connections get that answer to a command; None: the server's."""

    def handle(route: WebSocketRoute) -> None:
        server = route.connect_to_server()

        def on_message(frame: str | bytes) -> None:
            found = re.search(r'"id":(\d+)', str(frame)) if f'"type":"{command}"' in str(frame) else None
            instead = answer() if found is not None else None
            if found is None or instead is None:
                server.send(frame)
                return
            fields = ", ".join(f'"{name}": "{value}"' for name, value in instead.items())
            route.send(f'{{"id": {found[1]}, {fields}}}')

        route.on_message(on_message)

    page.route_web_socket(re.compile("/ws$"), handle)
    page.reload()
    expect(page.locator("html[data-connection=open]")).to_be_attached()


def test_the_badge_is_exact_and_tabs_stay_in_step(app_node: Node, bot: AppBot, join: Join) -> None:
    """What is read on one device is read on all; a count that lies is worse than none."""
    ann = join(app_node, "Ann Badge")
    page, other = ann.page, ann.open_tab()
    badge(page, 0)
    for title in ("First", "Second", "Third"):
        bot.notify(ann.user_id, title)
    for tab in (page, other):
        badge(tab, 3)
        expect(tab).to_have_title(re.compile(r"^\(3\) "))
    page.bring_to_front()  # a tab that is not in front draws once a second
    expect(page.locator("#announcer")).to_have_text("New notification: Third")
    panel = open_panel(page)
    expect(page.locator(".notification-title")).to_have_text(["Third", "Second", "First"])
    row(page, "Second").get_by_role("button", name="Mark as read").click()
    badge(page, 2)
    other.bring_to_front()
    badge(other, 2)
    open_panel(other)
    expect(row(other, "First")).to_have_class(re.compile("unread"))
    expect(row(other, "Second")).not_to_have_class(re.compile("unread"))
    row(other, "Second").get_by_role("button", name="Mark as unread").click()
    page.bring_to_front()
    badge(page, 3)
    panel.get_by_role("button", name="Mark all as read").click()
    for tab in (page, other):
        badge(tab, 0)
        expect(tab.locator(".notification.unread")).to_have_count(0)
        expect(tab).not_to_have_title(re.compile(r"^\("))
    page.reload()
    badge(page, 0)


def test_similar_ones_are_one_line_that_grows(app_node: Node, bot: AppBot, join: Join) -> None:
    """Four likes are one thing to look at, and it is new again with the fifth."""
    ann = join(app_node, "Ann Liked")
    page = ann.page

    def like(name: str) -> None:
        bot.notify(ann.user_id, type="like", template="like", actor=name, subject="post 1", data={"by": name})

    for name in ("Ben", "Cid", "Dan", "Eve"):
        like(name)
    open_panel(page)
    expect(page.locator(".notification")).to_have_count(1)
    expect(page.locator(".notification")).to_contain_text("Ben, Cid and 2 others liked your post.")
    expect(page.locator(".notification")).to_contain_text("4 in all")
    badge(page, 1)
    page.get_by_role("button", name="Mark as read").click()
    badge(page, 0)
    like("Fay")
    expect(page.locator(".notification.unread")).to_contain_text("Ben, Cid and 3 others")
    badge(page, 1)
    page.reload()
    badge(page, 1)


def test_a_click_opens_what_it_is_about(app_node: Node, bot: AppBot, join: Join) -> None:
    """Inside the page where it can; other sites in a tab of their own; other schemes not at all."""
    ann = join(app_node, "Ann Clicks")
    page = ann.page
    inside = bot.notify(ann.user_id, "Inside", url="/#trends")
    bot.notify(ann.user_id, "Scheme", url="otherapp://orders/7")
    bot.notify(ann.user_id, "Outside", url=f"{app_node.url.replace('127.0.0.1', 'localhost')}/icon.svg")
    open_panel(page)
    with ann.context.expect_page() as opened:
        row(page, "Outside").get_by_role("link").click()
    assert opened.value.evaluate("opener") is None
    opened.value.close()
    badge(page, 2)
    expect(row(page, "Scheme").get_by_role("link")).to_have_count(0)
    row(page, "Scheme").locator(".notification-link").click()
    badge(page, 1)
    row(page, "Inside").get_by_role("link").click()
    expect(page.get_by_role("heading", name="Discover", level=1)).to_be_visible()
    expect(page.get_by_role("dialog", name="Notifications")).to_be_hidden()
    badge(page, 0)
    (known,) = [
        item
        for item in tell(ann, {"type": "list_notifications"})[0]["items"]
        if item["notification_id"] == inside
    ]
    assert known["read"]
    assert known["seen"]


def test_what_stands_on_the_screen_is_seen_and_what_does_not_is_not(
    app_node: Node, bot: AppBot, join: Join
) -> None:
    """The server pushes to the phone what was not seen here, and does not push what was."""
    ann = join(app_node, "Ann Looks")
    page = ann.page
    for number in range(40):
        bot.notify(ann.user_id, f"Line {number:02}")
    badge(page, 40)

    def seen() -> list[str]:
        items = tell(ann, {"type": "list_notifications", "limit": 100})[0]["items"]
        return [item["title"] for item in items if item.get("seen")]

    assert seen() == []
    with page.expect_websocket() as opened:
        page.reload()
    with opened.value.expect_event("framereceived", lambda frame: "notifications_marked" in str(frame)):
        open_panel(page)
    assert "Line 39" in seen()
    assert "Line 00" not in seen()
    expect(page.locator(".notification")).to_have_count(30)
    page.locator(".notification").last.scroll_into_view_if_needed()
    expect(page.locator(".notification")).to_have_count(40)
    titles = page.locator(".notification-title").all_inner_texts()
    assert titles == [f"Line {number:02}" for number in range(39, -1, -1)]
    expect(page.get_by_text("That was all.")).to_be_attached()
    badge(page, 40)  # seen is not read


def test_dismissed_is_gone_and_undo_brings_it_back(app_node: Node, bot: AppBot, join: Join) -> None:
    """A slip of the finger costs nothing for some seconds; after a reload it stays gone."""
    ann = join(app_node, "Ann Slips")
    page, other = ann.page, ann.open_tab()
    page.bring_to_front()  # a tab that is not in front draws once a second
    for title in ("Keep", "Drop"):
        bot.notify(ann.user_id, title)
    open_panel(page)
    row(page, "Keep").get_by_role("button", name="Dismiss").click()
    expect(row(page, "Keep")).to_have_count(0)
    badge(page, 1)
    badge(other, 2)  # not told before it is meant
    page.get_by_role("button", name="Undo").click()
    expect(row(page, "Keep")).to_be_visible()
    badge(page, 2)
    row(page, "Drop").get_by_role("button", name="Dismiss").click()
    expect(row(page, "Drop")).to_have_count(0)
    page.evaluate(SECONDS_ARE_OVER)
    page.reload()
    badge(page, 1)
    badge(other, 1)  # sent by the page that came after
    open_panel(other)
    expect(other.locator(".notification-title")).to_have_text(["Keep"])


def test_the_centre_is_used_by_keys_alone(app_node: Node, bot: AppBot, join: Join) -> None:
    """Whoever has no mouse reads, moves, dismisses and comes back to where they were."""
    ann = join(app_node, "Ann Keys")
    page = ann.page
    for title in ("One", "Two", "Three"):
        bot.notify(ann.user_id, title)
    badge(page, 3)
    bell(page).focus()
    page.keyboard.press("Enter")
    expect(bell(page)).to_have_attribute("aria-expanded", "true")
    link = page.locator(".notification-link")
    expect(link.nth(0)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(link.nth(1)).to_be_focused()
    page.keyboard.press("Delete")
    expect(link).to_have_count(2)
    expect(link.nth(1)).to_be_focused()
    expect(link.nth(1)).to_contain_text("One")
    page.keyboard.press("Enter")
    badge(page, 1)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Notifications")).to_be_hidden()
    expect(bell(page)).to_be_focused()


def test_marks_made_without_a_connection_are_sent_later(app_node: Node, bot: AppBot, join: Join) -> None:
    """What was read in a tunnel is read, also when the page was opened anew before the tunnel's end."""
    ann = join(app_node, "Ann Tunnel")
    page = ann.page
    bot.notify(ann.user_id, "Before")
    badge(page, 1)
    open_panel(page)
    expect(row(page, "Before")).to_be_visible()  # the panel has read its page
    ann.context.set_offline(True)
    expect(page.locator("html[data-connection=waiting]")).to_be_attached()
    row(page, "Before").get_by_role("button", name="Mark as read").click()
    badge(page, 0)
    bot.notify(ann.user_id, "Meanwhile")
    ann.context.set_offline(False)
    expect(row(page, "Meanwhile")).to_be_visible()
    badge(page, 1)
    assert tell(ann, {"type": "list_notifications", "unread_only": True})[0]["unread"] == 1
    assert page.evaluate("Object.keys(localStorage).filter(key => key.includes('marks'))") == []


def test_an_empty_centre_says_so_and_a_failure_can_be_tried_again(app_node: Node, join: Join) -> None:
    """Nothing is not the same as nothing known."""
    ann = join(app_node, "Ann Empty")
    page = ann.page
    panel = open_panel(page)
    expect(panel).to_contain_text("You have no notifications.")
    is_broken = True
    answered(
        page,
        "list_notifications",
        lambda: {"type": "error", "code": "internal", "message": "It broke."} if is_broken else None,
    )
    panel = open_panel(page)
    expect(panel).to_contain_text("It broke.")
    is_broken = False
    panel.get_by_role("button", name="Try again").click()
    expect(panel).to_contain_text("You have no notifications.")


def test_preferences_are_saved_and_honoured(app_node: Node, bot: AppBot, join: Join) -> None:
    """What is switched off does not come, security comes whatever is off, and a reload shows the same."""
    ann = join(app_node, "Ann Chooses")
    page = ann.page
    open_settings(ann)
    orders = page.get_by_role("switch", name="Orders: In the app")
    expect(orders).to_be_checked()
    orders.uncheck()
    page.get_by_role("switch", name="Orders: Browsers").uncheck()
    expect(page.get_by_role("switch", name="Offers: In the app")).to_be_checked()
    security = page.locator("tr[data-type=security]")
    expect(security).to_contain_text("Always on")
    expect(security.get_by_role("switch")).to_have_count(0)
    page.get_by_role("combobox", name="How often: Likes").select_option("weekly")
    page.get_by_role("combobox", name="Weekly digests on").select_option("Friday")
    page.get_by_label("Digests come at").fill("18:30")
    page.get_by_label("Digests come at").blur()
    wanted = {
        "types": {"order": {"channels": {"inapp": False, "webpush": False}}, "like": {"frequency": "weekly"}},
        "digest_at": "18:30",
        "digest_weekday": 4,
    }
    for _ in range(100):  # until the last change is stored
        (told,) = tell(ann, {"type": "get_preferences"})
        if told["preferences"] == wanted:
            break
    assert told["preferences"] == wanted
    assert bot.ask(ann.user_id, "Not wanted")["state"] == "dropped"
    bot.notify(ann.user_id, "Warning", type="security")
    badge(page, 1)
    page.reload()
    expect(page.get_by_role("switch", name="Orders: In the app")).not_to_be_checked()
    expect(page.get_by_role("combobox", name="How often: Likes")).to_have_value("weekly")
    # What the page shows is what the server would do, for each type and channel.
    for known in tell(ann, {"type": "get_preferences"})[0]["types"]:
        shown = page.locator(f"tr[data-type={known['name']}]").get_by_role("switch")
        states = shown.evaluate_all("boxes => boxes.map(box => box.checked)")
        offers = [channel for channel in ("inapp", "webpush") if channel in known["offers"]]
        if not known.get("is_security"):
            assert states == [channel in known["channels"] for channel in offers], known


def test_quiet_hours_hold_pushes_and_the_plan_tells_until_when(
    app_node: Node, bot: AppBot, join: Join
) -> None:
    """The preview is the scheduler's own word on the coming days."""
    ann = join(app_node, "Ann Sleeps")
    page = ann.page
    tell(
        ann, {"type": "register_push", "channel": "webpush", **fake_subscription("sleeps"), "name": "Firefox"}
    )
    open_settings(ann)
    page.get_by_role("switch", name="Quiet hours").check()
    plan = page.get_by_role("region", name="The coming days")
    expect(plan).to_contain_text("Quiet hours until")
    page.get_by_label("Quiet from").fill(WHOLE_DAY["start"])
    page.get_by_label("Quiet from").blur()
    page.get_by_label("Quiet until").fill(WHOLE_DAY["end"])
    page.get_by_label("Quiet until").blur()
    for _ in range(100):
        if tell(ann, {"type": "get_preferences"})[0]["preferences"].get("quiet_hours") == WHOLE_DAY:
            break
    held = bot.ask(ann.user_id, "At night")
    assert (held["state"], held["reason"]) == ("held", "quiet hours")
    badge(page, 1)  # in the app it disturbs nobody
    page.reload()
    expect(plan).to_contain_text("Orders")
    page.get_by_label("Sunday").uncheck()
    for _ in range(100):
        quiet = tell(ann, {"type": "get_preferences"})[0]["preferences"]["quiet_hours"]
        if "weekdays" in quiet:
            break
    assert quiet == {**WHOLE_DAY, "weekdays": [0, 1, 2, 3, 4, 5]}


def test_a_change_that_is_refused_goes_back(app_node: Node, join: Join) -> None:
    """A switch that shows what is not so is a lie."""
    ann = join(app_node, "Ann Refused")
    page = ann.page
    answered(page, "set_preferences", lambda: {"type": "error", "code": "bad_field", "message": "No."})
    open_settings(ann)
    switch = page.get_by_role("switch", name="Orders: In the app")
    switch.click()
    expect(page.get_by_text("Not saved: No.")).to_be_visible()
    expect(switch).to_be_checked()


def test_a_consent_is_withdrawn_and_a_device_removed(app_node: Node, bot: AppBot, join: Join) -> None:
    """Whoever said yes can say no by themselves, and sees where they are reached."""
    ann = join(app_node, "Ann Withdraws")
    page = ann.page
    tell(
        ann,
        {"type": "set_consent", "purpose": "marketing", "given": True, "source": "the shop"},
        {"type": "register_push", "channel": "email", "address": "ann@example.org"},
    )
    assert bot.ask(ann.user_id, "Sale", type="offer")["state"] != "dropped"
    open_settings(ann)
    agreed = page.get_by_role("region", name="What you agreed to")
    expect(agreed).to_contain_text("by the shop · for Offers")
    agreed.get_by_role("button", name="Withdraw").click()
    page.get_by_role("button", name="Withdraw", exact=True).last.click()
    expect(agreed).to_contain_text("Nothing.")
    assert bot.ask(ann.user_id, "Sale again", type="offer")["state"] == "dropped"
    devices = page.get_by_role("region", name="Where you can be reached")
    expect(devices).to_contain_text("an…@example.org")
    devices.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove", exact=True).click()
    expect(devices).to_contain_text("Nowhere but in the app.")
    assert tell(ann, {"type": "list_push"})[0]["items"] == []
