"""People chat by the page, in real browsers on a real node: nothing is lost, nothing is doubled."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.web.browser import PASSWORD, Node, Person, item, message, png, send, texts
from tests.web.conftest import Join

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(180)]

EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>"


def typed(page: Page, person: str) -> None:
    expect(page.locator(".typing-note")).to_have_text(f"{person} is typing…")


def badge(page: Page, title: str, count: int) -> None:
    """Expect the unread badge of one line of the list."""
    found = item(page, title).locator(".badge")
    if count:
        expect(found).to_have_text(str(count))
    else:
        expect(found).to_have_count(0)


def make_group(owner: Person, title: str) -> None:
    owner.page.get_by_role("button", name="New conversation").click()
    owner.page.get_by_role("tab", name="Group").click()
    owner.page.get_by_role("textbox", name="Group name").fill(title)
    owner.page.get_by_role("button", name="Create group").click()
    expect(owner.page.get_by_role("heading", name=title, level=1)).to_be_visible()


def invite_link(owner: Person) -> str:
    """Make an invite link in the open group and return it."""
    owner.page.get_by_role("button", name="Members", exact=True).click()
    owner.page.get_by_role("button", name="Invite link").click()
    owner.page.get_by_role("button", name="Create link").click()
    link = owner.page.get_by_role("textbox", name="Invite link").input_value()
    owner.page.keyboard.press("Escape")
    owner.page.get_by_role("button", name="Close panel").click()
    return link


def act(page: Page, text: str, action: str) -> None:
    """Use one of the actions that stand beside a message."""
    row = message(page, text)
    row.hover()
    row.get_by_role("button", name=action, exact=True).click()


def menu(page: Page, text: str, action: str) -> None:
    act(page, text, "More")
    page.get_by_role("menuitem", name=action).click()


def test_a_person_signs_up_logs_out_and_logs_in_again(browser: Browser, node: Node) -> None:
    """A newcomer's first minute: the form says what is wrong, and the account works afterwards."""
    context = browser.new_context(base_url=node.url)
    page = context.new_page()
    page.goto("/")
    page.get_by_role("button", name="Create an account").click()
    page.get_by_label("User name").fill("newcomer")
    page.get_by_label("Display name").fill("New Comer")
    page.get_by_label("Password").fill("short")
    page.get_by_role("button", name="Sign up").click()
    expect(page.get_by_role("alert")).not_to_be_empty()
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign up").click()
    expect(page.get_by_text("No conversations yet.")).to_be_visible()
    page.reload()
    mine = page.get_by_role("button", name="Your profile and settings")
    expect(mine).to_contain_text("New Comer")
    mine.click()
    page.get_by_role("menuitem", name="Log out").click()
    page.get_by_label("User name").fill("newcomer")
    page.get_by_label("Password").fill("not " + PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text("The name or the password is wrong.")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(mine).to_contain_text("New Comer")
    context.close()


def test_two_people_chat_live_and_find_it_again_after_a_reload(node: Node, join: Join) -> None:
    """The heart of the page: messages, typing, receipts and presence go both ways without a reload."""
    ann, bob = join(node, "Ann Live"), join(node, "Bob Live")
    ann.start_direct(bob)
    expect(ann.page.locator(".head-sub")).to_have_text("online")
    ann.send("Hello Bob, see https://example.com/a_(b).")
    badge(bob.page, "Ann Live", 1)
    expect(bob.page).to_have_title(re.compile(r"^\(1\) "))
    expect(message(ann.page, "Hello Bob").locator(".tick")).to_have_attribute("aria-label", "Delivered")
    bob.open("Ann Live")
    link = message(bob.page, "Hello Bob").get_by_role("link")
    expect(link).to_have_attribute("href", "https://example.com/a_(b)")
    expect(link).to_have_attribute("rel", re.compile("noopener"))
    badge(bob.page, "Ann Live", 0)
    expect(bob.page).to_have_title(re.compile("^Ann Live"))
    expect(message(ann.page, "Hello Bob").locator(".tick")).to_have_attribute("aria-label", "Read")

    bob.page.get_by_role("textbox", name="Message", exact=True).press_sequentially("Hi An")
    typed(ann.page, "Bob Live")
    bob.send("Hi Ann")
    expect(message(ann.page, "Hi Ann")).to_be_visible()
    expect(ann.page.locator(".typing-note")).to_be_empty()
    expect(message(bob.page, "Hi Ann").locator(".tick")).to_have_attribute("aria-label", "Read")

    for person in (ann, bob):
        person.page.reload()
        expect(message(person.page, "Hi Ann")).to_be_visible()
        assert texts(person.page) == ["Hello Bob, see https://example.com/a_(b).", "Hi Ann"]


def test_a_closed_page_is_shown_as_offline_after_the_debounce(node: Node, join: Join) -> None:
    """Short drops are not shown; a person who left is, with when they were last there."""
    ann, bob = join(node, "Ann Gone"), join(node, "Bob Gone")
    ann.start_direct(bob)
    expect(ann.page.locator(".head-sub")).to_have_text("online")
    bob.page.goto("about:blank")
    expect(ann.page.locator(".head-sub")).to_have_text(re.compile("last seen"), timeout=30_000)
    bob.page.goto(node.url)
    expect(ann.page.locator(".head-sub")).to_have_text("online")


def test_a_killed_node_loses_and_doubles_nothing(frail_node: Node, join: Join) -> None:
    """What is written while the node is down is sent once when it is back, in order, even after a reload."""
    ann, bob = join(frail_node, "Ann Kill"), join(frail_node, "Bob Kill")
    ann.start_direct(bob)
    ann.send("before")
    bob.open("Ann Kill")
    expect(message(bob.page, "before")).to_be_visible()
    expect(ann.page.locator(".head-sub")).to_have_text("online")
    expect(ann.page.locator(".dot-online")).not_to_have_count(0)
    frail_node.kill()
    expect(ann.page.get_by_text("Connecting…")).to_be_visible()
    expect(ann.page.locator(".head-sub")).to_have_text("")  # nobody can know
    expect(ann.page.locator(".dot")).to_have_count(0)
    for number in range(3):
        ann.send(f"ann while down {number}")
    expect(ann.page.locator(".message.pending")).to_have_count(3)
    bob.send("bob while down")
    frail_node.start()
    ann.page.reload()  # the outbox outlives the page
    expected = {"before", "bob while down"} | {f"ann while down {number}" for number in range(3)}
    for person in (ann, bob):
        person.page.get_by_role("button", name="Try now").or_(
            person.page.locator("html[data-connection=open]")
        ).first.wait_for()
        expect(person.page.locator(".conversation .message")).to_have_count(5)
        expect(person.page.locator(".message.pending")).to_have_count(0)
        assert set(texts(person.page)) == expected
        downs = [text for text in texts(person.page) if text.startswith("ann while")]
        assert downs == sorted(downs)
    assert texts(ann.page) == texts(bob.page)
    ann.page.reload()
    expect(ann.page.locator(".conversation .message")).to_have_count(5)


def test_a_restarted_node_is_found_again_without_a_reload(frail_node: Node, join: Join) -> None:
    """An operator's restart is a blink: the pages come back by themselves and go on where they were."""
    ann, bob = join(frail_node, "Ann Again"), join(frail_node, "Bob Again")
    ann.start_direct(bob)
    bob.open("Ann Again")
    ann.send("before the restart")
    expect(message(bob.page, "before the restart")).to_be_visible()
    frail_node.stop()
    bob.send("in between")
    frail_node.start()
    expect(message(ann.page, "in between")).to_be_visible(timeout=40_000)
    ann.send("after the restart")
    expect(message(bob.page, "after the restart")).to_be_visible(timeout=40_000)
    expect(message(ann.page, "after the restart").locator(".tick")).to_have_attribute("aria-label", "Read")
    assert texts(ann.page) == texts(bob.page) == ["before the restart", "in between", "after the restart"]


def test_reading_in_one_tab_clears_the_badge_in_the_other(node: Node, join: Join) -> None:
    """Each tab is a device of its own: both count what comes, and reading in one is reading."""
    ann, bob = join(node, "Ann Tabs"), join(node, "Bob Tabs")
    ann.start_direct(bob)
    ann.send("one")
    badge(bob.page, "Ann Tabs", 1)
    second = bob.open_tab()
    badge(second, "Ann Tabs", 1)
    ann.send("two")
    ann.send("three")
    for page in (bob.page, second):
        badge(page, "Ann Tabs", 3)
    menu(ann.page, "two", "Delete")
    ann.page.get_by_role("button", name="Delete", exact=True).click()
    for page in (bob.page, second):
        badge(page, "Ann Tabs", 2)
    item(second, "Ann Tabs").click()
    expect(message(second, "three")).to_be_visible()
    expect(second.locator(".divider")).to_have_text("New messages")
    for page in (bob.page, second):
        badge(page, "Ann Tabs", 0)
    send(second, "from the second tab")
    bob.open("Ann Tabs")
    assert second.evaluate("sessionStorage['hubbub.device']") != bob.page.evaluate(
        "sessionStorage['hubbub.device']"
    )
    expect(message(bob.page, "from the second tab")).to_be_visible()
    badge(bob.page, "Ann Tabs", 0)


def test_a_duplicated_tab_becomes_a_device_of_its_own(node: Node, join: Join) -> None:
    """Duplicating a tab copies its device id; both must go on, and not throw each other out for ever."""
    ann, bob = join(node, "Ann Twin"), join(node, "Bob Twin")
    ann.start_direct(bob)
    with ann.context.expect_page() as opened:
        ann.page.evaluate("window.open(location.href)")  # an opened window inherits sessionStorage
    twin = opened.value
    expect(twin.locator("html[data-connection=open]")).to_be_attached()
    expect(ann.page.locator("html[data-connection=open]")).to_be_attached()
    ann.page.wait_for_function(
        "device => sessionStorage['hubbub.device'] !== device",
        arg=twin.evaluate("sessionStorage['hubbub.device']"),
    )
    expect(ann.page.locator("html[data-connection=open]")).to_be_attached()
    bob.open("Ann Twin")
    bob.send("to both")
    for page in (ann.page, twin):
        expect(message(page, "to both")).to_be_visible()


def test_what_is_typed_into_an_edit_outlives_a_receipt(node: Node, join: Join) -> None:
    """The row is made again when the other one reads it, in the middle of the typing."""
    ann, bob = join(node, "Ann Types"), join(node, "Bob Reads")
    ann.start_direct(bob)
    ann.send("teh first")
    menu(ann.page, "teh first", "Edit")
    editor = ann.page.get_by_role("textbox", name="Edit message")
    editor.fill("the first")
    bob.open("Ann Types")
    expect(ann.page.locator(".conversation .tick")).to_have_attribute("aria-label", "Read")
    expect(editor).to_have_value("the first")
    editor.press("Enter")
    expect(message(bob.page, "the first").locator(".edited")).to_be_visible()


def test_edits_deletions_reactions_and_quotes_reach_the_other(node: Node, join: Join) -> None:
    """What changes after the fact changes on every screen at once, and is so after a reload."""
    ann, bob = join(node, "Ann Edit"), join(node, "Bob Edit")
    ann.start_direct(bob)
    ann.send("teh first")
    ann.send("the second")
    bob.open("Ann Edit")
    expect(message(bob.page, "the second")).to_be_visible()

    menu(ann.page, "teh first", "Edit")
    editor = ann.page.get_by_role("textbox", name="Edit message")
    editor.fill("the first")
    editor.press("Enter")
    expect(message(bob.page, "the first").locator(".edited")).to_be_visible()

    field = ann.page.get_by_role("textbox", name="Message", exact=True)
    field.press("ArrowUp")
    expect(editor).to_have_value("the second")
    editor.press("Escape")
    expect(editor).to_have_count(0)

    act(bob.page, "the first", "React")
    bob.page.get_by_role("button", name="React with 👍").click()
    reaction = message(ann.page, "the first").locator(".reaction")
    expect(reaction).to_have_text("👍1")
    reaction.click()
    expect(message(bob.page, "the first").locator(".reaction")).to_have_text("👍2")
    reaction.click()
    expect(message(bob.page, "the first").locator(".reaction")).to_have_text("👍1")

    act(bob.page, "the first", "Reply")
    bob.send("quoting you")
    expect(message(ann.page, "quoting you").locator(".quote")).to_contain_text("the first")

    menu(ann.page, "the second", "Delete")
    ann.page.get_by_role("button", name="Delete", exact=True).click()
    for person in (ann, bob):
        expect(person.page.get_by_text("This message was deleted")).to_be_visible()
        expect(person.page.get_by_text("the second")).to_have_count(0)
        person.page.reload()
        expect(message(person.page, "the first").first.locator(".reaction")).to_have_text("👍1")
        expect(person.page.get_by_text("This message was deleted")).to_be_visible()


def test_people_join_a_group_by_its_link_and_admins_run_it(node: Node, join: Join) -> None:
    """A group from its making to a ban, as its owner and two members see it."""
    ann, bob, cat = join(node, "Ann Group"), join(node, "Bob Group"), join(node, "Cat Group")
    make_group(ann, "Garden club")
    link = invite_link(ann)
    for person in (bob, cat):
        person.page.goto(link)
        expect(person.page.get_by_role("heading", name="Garden club", level=1)).to_be_visible()
    expect(ann.page.locator(".head-sub")).to_have_text("3 members, 3 online")
    expect(ann.page.get_by_text("Cat Group joined")).to_be_visible()

    ann.send("Welcome, both")
    for person in (bob, cat):
        expect(message(person.page, "Welcome, both")).to_be_visible()
    read_by = message(ann.page, "Welcome, both").locator(".read-by")
    expect(read_by).to_have_text("Read by 2")
    read_by.click()
    expect(ann.page.get_by_role("dialog")).to_contain_text("Read (2)")
    ann.page.keyboard.press("Escape")

    field = ann.page.get_by_role("textbox", name="Message", exact=True)
    field.press_sequentially("Look, @bo")
    expect(ann.page.get_by_role("option", name="Bob Group")).to_be_visible()
    field.press("Enter")
    expect(field).to_have_value("Look, @bob.group ")
    field.press("Enter")
    expect(bob.page.locator(".mention-me")).to_have_text("@bob.group")
    expect(cat.page.locator(".mention")).to_have_text("@bob.group")
    expect(cat.page.locator(".mention-me")).to_have_count(0)

    act(bob.page, "Welcome, both", "Open thread")
    reply = bob.page.get_by_role("textbox", name="Reply in thread")
    reply.fill("in the thread")
    reply.press("Enter")
    expect(message(ann.page, "Welcome, both").locator(".thread-chip")).to_have_text("1 reply")
    message(ann.page, "Welcome, both").locator(".thread-chip").click()
    expect(ann.page.locator(".panel").get_by_text("in the thread")).to_be_visible()
    ann.page.keyboard.press("Escape")
    expect(ann.page.locator(".panel")).to_have_count(0)

    ann.page.get_by_role("button", name="Members", exact=True).click()
    ann.page.get_by_role("button", name="Rename").click()
    ann.page.get_by_role("dialog").get_by_role("textbox", name="Group name").fill("Garden friends")
    ann.page.get_by_role("button", name="Save").click()
    expect(bob.page.get_by_role("heading", name="Garden friends", level=1)).to_be_visible()
    ann.page.get_by_role("button", name="Actions for Bob Group").click()
    ann.page.get_by_role("menuitem", name="Silence for an hour").click()
    expect(bob.page.locator(".conversation .compose-notice")).to_contain_text("You may not post here until")
    ann.page.get_by_role("button", name="Actions for Cat Group").click()
    ann.page.get_by_role("menuitem", name="Ban").click()
    ann.page.get_by_role("button", name="Ban", exact=True).click()
    expect(cat.page.get_by_role("heading", name="Garden friends", level=1)).to_have_count(0)
    expect(item(cat.page, "Garden friends")).to_have_count(0)
    cat.page.goto(link)
    expect(cat.page.locator(".toast-error")).to_be_visible()


def test_a_picture_is_uploaded_and_shown_to_the_other(node: Node, join: Join, tmp_path: Path) -> None:
    """Files go by HTTP and hang on a message; a picture is drawn, anything else is a download."""
    ann, bob = join(node, "Ann Files"), join(node, "Bob Files")
    ann.start_direct(bob)
    picture, notes = tmp_path / "square.png", tmp_path / "notes.txt"
    picture.write_bytes(png(48, 32))
    notes.write_text("some notes")
    ann.page.get_by_label("Choose files").set_input_files([picture, notes])
    expect(ann.page.locator(".tray-item.ready")).to_have_count(2)
    ann.send("two files")
    bob.open("Ann Files")
    image = message(bob.page, "two files").locator(".picture img")
    expect(image).to_be_visible()
    bob.page.wait_for_function(
        "image => image.naturalWidth === 48 && image.naturalHeight === 32", arg=image.element_handle()
    )
    file = message(bob.page, "two files").locator("a.file")
    expect(file).to_contain_text("notes.txt")
    with bob.page.expect_download() as started:
        file.click()
    assert Path(started.value.path()).read_text() == "some notes"


def test_markup_in_names_titles_and_texts_stays_text(node: Node, join: Join) -> None:
    """Whatever people call themselves or write, it never becomes part of the page."""
    ann, bob = join(node, "Ann Mark"), join(node, "Bob Mark")
    ann.page.get_by_role("button", name="Your profile and settings").click()
    ann.page.get_by_role("menuitem", name="Profile").click()
    ann.page.get_by_label("Display name").fill(EVIL)
    ann.page.get_by_role("button", name="Save").click()
    expect(ann.page.get_by_role("button", name="Your profile and settings")).to_contain_text(EVIL)
    make_group(ann, EVIL)
    link = invite_link(ann)
    ann.send(EVIL + ' javascript:alert(3) https://example.com/"onmouseover=alert(4)')
    bob.page.goto(link)
    expect(bob.page.get_by_role("heading", name=EVIL, level=1)).to_be_visible()
    row = bob.page.locator(".conversation .message")
    expect(row.locator(".author")).to_have_text(EVIL)
    expect(row.locator(".text")).to_contain_text(EVIL)
    expect(row.get_by_role("link")).to_have_attribute("href", "https://example.com/")
    expect(item(bob.page, EVIL)).to_contain_text(EVIL)
    bob.page.get_by_role("button", name="Members", exact=True).click()
    expect(bob.page.locator(".panel").get_by_text(EVIL).first).to_be_visible()
    assert (
        bob.page.locator("script:not([src='/js/main.js']), img[src='x'], [onerror], [onmouseover]").count()
        == 0
    )


def test_a_long_history_loads_upwards_and_keeps_its_place(node: Node, join: Join) -> None:
    """History is read in pages as the person scrolls, without a jump and without a hole."""
    ann, bob = join(node, "Ann Long"), join(node, "Bob Long")
    ann.start_direct(bob)
    for number in range(130):
        ann.send(f"line {number}")
    bob.open("Ann Long")
    expect(message(bob.page, "line 129")).to_be_visible()
    scroller = bob.page.get_by_role("region", name="Messages")
    first = bob.page.locator(".conversation .message", has=bob.page.get_by_text("line 0", exact=True))
    for _ in range(60):
        if first.count():
            break
        scroller.hover()
        bob.page.mouse.wheel(0, -900)
        bob.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    expect(first).to_have_count(1)
    assert texts(bob.page) == [f"line {number}" for number in range(130)]
    bob.page.evaluate("document.querySelector('.scroller').scrollTop = 0")
    ann.send("while you read above")
    jump = bob.page.get_by_role("button", name="Jump to the latest message")
    expect(jump).to_contain_text("1")
    badge(bob.page, "Ann Long", 1)  # not seen, so not read
    jump.click()
    expect(message(bob.page, "while you read above")).to_be_in_viewport()
    badge(bob.page, "Ann Long", 0)


def test_contacts_are_asked_accepted_and_blocked(node: Node, join: Join) -> None:
    """A request shows on the other side at once; a block keeps messages out and says so."""
    ann, bob = join(node, "Ann Contact"), join(node, "Bob Contact")
    ann.page.get_by_role("button", name="Contacts").click()
    ann.page.get_by_role("searchbox").last.fill("bob.con")
    ann.page.get_by_role("button", name="Add contact").click()
    expect(ann.page.get_by_text("no answer yet")).to_be_visible()
    bob.page.get_by_role("button", name="Contacts").click()
    bob.page.get_by_role("button", name="Accept").click()
    row = ann.page.locator(f".contact-list [data-user='{bob.user_id}']")
    expect(row.get_by_role("button", name="Write")).to_be_visible()
    expect(row).to_contain_text("online")
    row.get_by_role("button", name="Write").click()
    ann.send("hello contact")
    bob.page.keyboard.press("Escape")
    bob.open("Ann Contact")
    bob.page.get_by_role("banner").or_(bob.page.locator(".conversation-head")).get_by_role(
        "button", name="More"
    ).first.click()
    bob.page.get_by_role("menuitem", name="Block").click()
    bob.page.get_by_role("button", name="Block", exact=True).click()
    expect(bob.page.get_by_text("You blocked this person.")).to_be_visible()
    ann.send("can you read this?")
    failed = ann.page.locator(".message.failed")
    expect(failed).to_contain_text("Not sent")
    failed.get_by_role("button", name="Discard").click()
    expect(failed).to_have_count(0)


def test_an_ended_log_in_leaves_the_page_at_once(browser: Browser, node: Node, join: Join) -> None:
    """Whoever lost a phone ends its log-in from another device."""
    ann = join(node, "Ann Phone")
    phone = browser.new_context(base_url=node.url)
    page = phone.new_page()
    page.goto("/")
    page.get_by_label("User name").fill("ann.phone")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("button", name="Your profile and settings")).to_contain_text("Ann Phone")
    ann.page.get_by_role("button", name="Your profile and settings").click()
    ann.page.get_by_role("menuitem", name="Where you are logged in").click()
    ann.page.get_by_role("dialog").get_by_role("button", name="End", exact=True).click()
    ann.page.get_by_role("button", name="End it").click()
    expect(page.get_by_role("alert")).to_have_text("Your log-in has ended. Log in again.")
    expect(ann.page.get_by_role("dialog").locator(".person-row")).to_have_count(1)
    assert page.evaluate("localStorage['hubbub.session'] ?? null") is None
    phone.close()


def test_a_phone_shows_one_column_at_a_time(node: Node, join: Join) -> None:
    """On a narrow screen the list and the conversation take turns, and nothing sticks out."""
    ann = join(node, "Ann Small", viewport={"width": 360, "height": 640}, has_touch=True)
    bob = join(node, "Bob Small")
    ann.start_direct(bob)
    expect(ann.page.get_by_role("textbox", name="Message", exact=True)).to_be_visible()
    expect(ann.page.locator(".sidebar")).not_to_be_visible()
    ann.send("W" * 300)
    expect(message(ann.page, "WWW")).to_be_visible()
    assert ann.page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert ann.page.evaluate("document.querySelector('.scroller').scrollWidth <= innerWidth")
    ann.page.get_by_role("button", name="Back to the list").click()
    expect(item(ann.page, "Bob Small")).to_be_visible()
    expect(ann.page.get_by_role("textbox", name="Message", exact=True)).to_have_count(0)
    ann.page.go_back()
    expect(message(ann.page, "WWW")).to_be_visible()
