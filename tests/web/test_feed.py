"""People read and write the feed by the page, in real browsers: no doubles, no holes, no jumps."""

import os
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from PIL import Image
from playwright.sync_api import FilePayload, Locator, Page, expect

from tests.web.browser import Node, Person
from tests.web.conftest import Join

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]

EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>"

# Give commands one after the other over a socket of their own, each again where it is told to come later.
TELL = """
(commands) => new Promise((resolve, reject) => {
  const { token } = JSON.parse(localStorage.getItem("hubbub.session"));
  const socket = new WebSocket(`ws://${location.host}/ws`, "hubbub.json");
  const device_id = `told-${Math.random().toString(36).slice(2)}`;
  const replies = [];
  const next = () => {
    if (replies.length === commands.length) {
      socket.close();
      resolve(replies);
    } else socket.send(JSON.stringify({ ...commands[replies.length], id: 7 }));
  };
  const hello = { type: "hello", id: 1, token, device_id, client: "test" };
  socket.onopen = () => socket.send(JSON.stringify(hello));
  socket.onerror = () => reject(new Error("no socket"));
  socket.onmessage = ({ data }) => {
    const frame = JSON.parse(data);
    if (frame.type === "error" && frame.retry_after_s) setTimeout(next, frame.retry_after_s * 1000);
    else if (frame.type === "error") reject(new Error(`${frame.code}: ${frame.message}`));
    else if (frame.type === "welcome") next();
    else if (frame.id === 7) {
      replies.push(frame);
      next();
    }
  };
})
"""


def tell(person: Person, *commands: dict[str, Any]) -> list[dict[str, Any]]:
    """Give commands as that person, past the page; returns the replies."""
    replies: list[dict[str, Any]] = person.page.evaluate(TELL, list(commands))
    return replies


def publish(author: Person, *texts: str) -> list[int]:
    """Post these texts, in this order."""
    commands = [{"type": "create_post", "client_id": uuid4().hex, "text": text} for text in texts]
    return [int(reply["post"]["post_id"]) for reply in tell(author, *commands)]


def follow(reader: Person, *authors: Person) -> None:
    tell(reader, *[{"type": "follow", "user_id": author.user_id} for author in authors])


def visit(person: Person, address: str) -> None:
    person.page.evaluate("address => { location.hash = address; }", address)


def open_feed(person: Person) -> None:
    """Go to the feed and wait until it was read."""
    visit(person, "feed")
    expect(person.page.get_by_role("heading", name="Feed", level=1)).to_be_visible()
    expect(person.page.locator(".feed-state .spinner")).to_have_count(0)


def watch_feed(person: Person) -> None:
    """Go to the feed and wait until the page has told what is on its screen: then it hears of changes."""
    with person.page.expect_websocket() as opened:
        person.page.reload()
    watching = re.compile(r'"watch_feed".*"post_ids":\[\d')
    with opened.value.expect_event("framesent", lambda frame: watching.search(str(frame)) is not None):
        open_feed(person)


def rows(page: Page) -> Locator:
    """The posts and ads of the feed, in the order in which they stand there."""
    return page.locator(".feed-rows > li")


def row(page: Page, text: str) -> Locator:
    """The post with that text, wherever it stands on the page."""
    return page.locator(".posts > li", has=page.locator(".post-text", has_text=text))


def texts(page: Page) -> list[str]:
    return page.locator(".feed-rows > .post:not(.ad) .post-text").all_text_contents()


def menu(page: Page, text: str, action: str | re.Pattern[str]) -> None:
    row(page, text).get_by_role("button", name="More about this post").click()
    page.get_by_role("menuitem", name=action).click()


def wheel(page: Page, pixels: int) -> None:
    """Scroll as a person does, and let the page draw."""
    page.locator(".feed-scroller").hover(position={"x": 300, "y": 300})
    page.mouse.wheel(0, pixels)
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def kinds(page: Page) -> list[str]:
    """What the rows of the feed are, in their order."""
    found: list[str] = rows(page).evaluate_all("rows => rows.map(row => row.matches('.ad') ? 'ad' : 'post')")
    return found


def spaced(post_count: int) -> list[str]:
    """So many posts, with an ad after every fifth."""
    return ["ad" if place % 6 == 5 else "post" for place in range(post_count + post_count // 5)]


def test_a_long_feed_is_scrolled_while_new_posts_arrive(frail_node: Node, join: Join) -> None:
    """Nothing is missed, doubled, or moved by itself; ads keep their distance; what is new waits."""
    with httpx.Client(base_url=frail_node.url, auth=frail_node.make_key()) as backend:
        backend.put("/v1/app/feed_options", json={"ads": True}).raise_for_status()
        shop = {"title": "Fine tea", "url": "https://shop.example/", "sponsor": "Fine tea", "daily_cap": 0}
        for campaign in (shop, {"title": "Only words", "daily_cap": 0}):
            backend.post("/v1/app/campaigns", json=campaign).raise_for_status()
    node = frail_node
    reader = join(node, "Rita Scrolls")
    authors = [join(node, f"{name} Writes") for name in ("Ada", "Ben", "Cleo", "Dan")]
    follow(reader, *authors)
    written: list[tuple[int, str]] = []
    for batch in range(10):
        for place, author in enumerate(authors):
            names = [f"post {batch}-{place}-{number}" for number in range(5)]
            written += zip(publish(author, *names), names, strict=True)
    expected = [text for _, text in sorted(written, reverse=True)]
    assert len(expected) == 200
    open_feed(reader)
    page = reader.page
    late: list[str] = []
    for step in range(400):
        if (
            rows(page).locator("nth=-1").count()
            and "reached the end" in page.locator(".feed-state").inner_text()
        ):
            break
        if step in (1, 3, 5, 7):
            wheel(page, 900)
            text = f"late {len(late)}"
            seen = "first => [first.dataset.item, Math.round(first.getBoundingClientRect().top)]"
            first = rows(page).nth(len(texts(page)) // 2).element_handle()
            assert first is not None
            before = first.evaluate(seen)
            publish(authors[len(late) % 4], text)
            late.append(text)
            expect(page.locator(".pill")).to_have_text(f"{len(late)} new post{'s' if len(late) > 1 else ''}")
            assert first.evaluate(seen) == before, "what is read must not move"
        wheel(page, 1800)
    assert texts(page) == expected
    assert kinds(page) == spaced(200)
    ads = page.locator(".post.ad")
    assert ads.filter(has_text="Fine tea").locator("a.ad-card").count() > 0
    words = ads.filter(has_text="Only words")
    expect(words.locator(".ad-title").first).to_have_text("Only words")
    expect(words.get_by_role("link")).to_have_count(0)
    assert len(late) == 4
    page.locator(".pill").click()
    expect(rows(page).first).to_contain_text("late 3")
    expect(page.locator(".pill")).to_be_hidden()
    assert texts(page)[:6] == ["late 3", "late 2", "late 1", "late 0", *expected[:2]]
    assert page.locator(".feed-scroller").evaluate("node => node.scrollTop") == 0
    assert kinds(page) == spaced(len(texts(page)))


def test_an_ad_is_labelled_and_counted_when_seen_and_clicked(frail_node: Node, join: Join) -> None:
    """The app's backend pays by what was on a screen: once for each place, however often it was."""
    reader, author = join(frail_node, "Rita Buys"), join(frail_node, "Ann Buys")
    follow(reader, author)
    publish(author, *[f"thing {number}\n" + "and so on\n" * 20 for number in range(6)])
    with httpx.Client(base_url=frail_node.url, auth=frail_node.make_key()) as backend:
        backend.put("/v1/app/feed_options", json={"ads": True}).raise_for_status()
        campaign = {"title": "Fine tea", "url": "https://tea.example/", "sponsor": "Tea & Co"}
        made = backend.post("/v1/app/campaigns", json=campaign).raise_for_status().json()
        page = reader.page
        with page.expect_websocket() as opened:
            page.reload()
        socket = opened.value
        open_feed(reader)
        ad = page.locator(".post.ad")
        expect(ad).to_contain_text("Sponsored")
        expect(ad).to_contain_text("Tea & Co")
        expect(ad).not_to_be_in_viewport()
        report = f"/v1/app/campaigns/{made['campaign_id']}/report"
        assert backend.get(report).json()["impressions"] == 0
        with socket.expect_event("framesent", lambda frame: "ad_seen" in str(frame)):
            ad.scroll_into_view_if_needed()
        wheel(page, -4000)
        wheel(page, 4000)
        with reader.context.expect_page() as opened_page:
            ad.get_by_role("link").click()
        opened_page.value.close()
        for _ in range(100):  # it is told while the other tab opens
            counts = backend.get(report).json()
            if counts["clicks"]:
                break
            page.evaluate("new Promise(done => requestAnimationFrame(done))")
        assert (counts["showings"], counts["impressions"], counts["clicks"]) == (1, 1, 1)


def test_not_interested_hides_at_once_and_undo_brings_it_back(node: Node, join: Join) -> None:
    """A post, its author or one of its hashtags: gone from screen and feed until it is undone."""
    reader, author, other = join(node, "Rita Hides"), join(node, "Ann Hides"), join(node, "Bob Hides")
    follow(reader, author, other)
    publish(author, "tea is #brewing", "coffee is ready")
    publish(other, "beer is #Brewing too", "only water")
    open_feed(reader)
    page = reader.page
    expect(rows(page)).to_have_count(4)
    menu(page, "only water", "Not interested in this post")
    expect(row(page, "only water")).to_have_count(0)
    line = page.locator(".post-hidden")
    expect(line).to_contain_text("You will not see this post again.")
    line.get_by_role("button", name="Undo").click()
    expect(row(page, "only water")).to_be_visible()
    menu(page, "tea is", "Not interested in #brewing")
    expect(page.locator(".post-hidden")).to_contain_text("You will see less of #brewing.")
    assert texts(page) == ["only water", "coffee is ready"]
    menu(page, "coffee is ready", "Not interested in Ann Hides")
    expect(row(page, "coffee is ready")).to_have_count(0)
    page.reload()
    expect(row(page, "only water")).to_be_visible()
    assert texts(page) == ["only water"]
    visit(reader, "interests")
    expect(page.locator(".interest")).to_have_count(2)
    page.get_by_role("button", name="Undo: Ann Hides").click()
    page.get_by_role("button", name="Undo: #brewing").click()
    expect(page.locator(".interest")).to_have_count(0)
    page.reload()
    visit(reader, "feed")
    expect(rows(page)).to_have_count(4)


def test_the_reading_position_survives_a_reload(node: Node, join: Join) -> None:
    """Also with new posts above: they are counted, and the person stands where they were."""
    reader, author = join(node, "Rita Stays"), join(node, "Ann Stays")
    follow(reader, author)
    publish(author, *[f"line {number}\n" + "more of it\n" * (number % 7) for number in range(60)])
    open_feed(reader)
    page = reader.page
    with page.expect_websocket() as opened:
        page.reload()
    socket = opened.value
    expect(rows(page).first).to_be_visible()
    while "line 22" not in "".join(texts(page)):
        wheel(page, 1500)
    reading = row(page, "line 25\n").first
    post_id = reading.get_attribute("data-post")
    told = re.compile(f'"set_feed_position","post_id":{post_id}\\b')
    with socket.expect_event("framesent", lambda frame: told.search(str(frame)) is not None):
        reading.evaluate("row => row.scrollIntoView({ block: 'start' })")
    expect(reading).to_be_in_viewport()
    top = reading.evaluate("row => row.getBoundingClientRect().top")
    publish(author, "newer 1", "newer 2", "newer 3")
    page.reload()
    expect(reading).to_be_in_viewport()
    page.wait_for_function(
        """([post_id, top]) => {
          const row = document.querySelector(`.feed-rows [data-post="${post_id}"]`);
          return row && Math.abs(row.getBoundingClientRect().top - top) < 2;
        }""",
        arg=[post_id, top],
    )
    expect(page.locator(".pill")).to_have_text("3 new posts")
    page.locator(".pill").click()
    expect(row(page, "newer 3")).to_be_in_viewport()
    expect(page.locator(".pill")).to_be_hidden()
    assert [text.split("\n")[0] for text in texts(page)[:5]] == [
        "newer 3",
        "newer 2",
        "newer 1",
        "line 59",
        "line 58",
    ]


def test_a_post_with_a_picture_is_written_and_comes_to_the_followers(
    node: Node, join: Join, tmp_path: Path
) -> None:
    """The upload shows its progress, the post goes out once, and stands on top of the own feed at once."""
    ann, bob = join(node, "Ann Posts"), join(node, "Bob Posts")
    follow(bob, ann)
    publish(ann, "words only")
    open_feed(ann)
    open_feed(bob)
    expect(row(bob.page, "words only")).to_be_visible()
    picture = tmp_path / "noise.png"
    Image.frombytes("RGB", (400, 300), os.urandom(400 * 300 * 3)).save(picture)  # does not compress
    line = ann.context.new_cdp_session(ann.page)
    line.send("Network.enable")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 150_000}
    line.send("Network.emulateNetworkConditions", slow)
    ann.page.get_by_label("Choose pictures, videos or files").set_input_files(picture)
    progress = ann.page.get_by_role("progressbar", name="Uploading noise.png")
    expect(progress).to_be_visible()
    handle = progress.element_handle()
    ann.page.wait_for_function("bar => bar.value > 0.1 && bar.value < 1", arg=handle)
    post = ann.page.get_by_role("button", name="Post", exact=True)
    expect(post).to_be_disabled()
    field = ann.page.get_by_role("textbox", name="Write a post")
    field.press_sequentially("@bob.po")
    names = ann.page.get_by_role("listbox", name="People")
    expect(names).to_be_visible()
    list_box, bar_box = names.bounding_box(), progress.bounding_box()
    assert list_box is not None
    assert bar_box is not None
    assert list_box["y"] + list_box["height"] <= bar_box["y"], "the names must not cover the progress"
    line.send("Network.emulateNetworkConditions", {**slow, "uploadThroughput": -1})
    expect(ann.page.locator(".tray-item.ready")).to_have_count(1)
    broken = FilePayload(name="broken.png", mimeType="image/png", buffer=b"no picture at all")
    ann.page.get_by_label("Choose pictures, videos or files").set_input_files(broken)
    failed = ann.page.locator(".tray-item.failed")
    expect(failed.get_by_role("alert")).to_contain_text("it is no PNG, JPEG, GIF or WebP picture")
    expect(failed.get_by_role("button", name="Try again")).to_have_count(0)
    failed.get_by_role("button", name="Remove broken.png").click()
    expect(failed).to_have_count(0)
    field.fill("look at this @bob.posts #noise")
    post.click()
    expect(row(ann.page, "look at this")).to_have_count(1)
    expect(ann.page.locator(".post.pending")).to_have_count(0)
    expect(bob.page.locator(".pill")).to_have_text("1 new post")
    bob.page.locator(".pill").click()
    shown = row(bob.page, "look at this")
    image = shown.locator(".gallery img")
    expect(image).to_be_visible()
    bob.page.wait_for_function("image => image.naturalWidth === 400", arg=image.element_handle())
    expect(shown.get_by_role("link", name="@bob.posts")).to_have_attribute("href", f"#u/{bob.user_id}")
    expect(shown.get_by_role("button", name="#noise")).to_be_visible()
    ann.page.reload()
    expect(row(ann.page, "look at this")).to_have_count(1)


def test_a_like_moves_the_count_in_another_browser(node: Node, join: Join) -> None:
    """Counts of what is on the screen are live, exact, and come back after a reload."""
    ann, bob = join(node, "Ann Counts"), join(node, "Bob Counts")
    follow(bob, ann)
    publish(ann, "count on me")
    for person in (ann, bob):
        watch_feed(person)
    like = row(bob.page, "count on me").get_by_role("button", name="Like")
    like.click()
    expect(row(bob.page, "count on me").get_by_role("button", name="Unlike, 1 like")).to_be_visible()
    expect(row(ann.page, "count on me").get_by_role("button", name="Like, 1 like")).to_be_visible()
    row(ann.page, "count on me").get_by_role("button", name="Like, 1 like").click()
    expect(row(bob.page, "count on me").get_by_role("button", name="Unlike, 2 likes")).to_be_visible()
    row(bob.page, "count on me").get_by_role("button", name="Repost").click()
    expect(row(ann.page, "count on me").get_by_role("button", name="Repost, 1 repost")).to_be_visible()
    bob.page.reload()
    again = row(bob.page, "count on me").first
    expect(again.get_by_role("button", name="Unlike, 2 likes")).to_be_visible()
    again.get_by_role("button", name="Take the repost back, 1 repost").click()
    expect(row(ann.page, "count on me").get_by_role("button", name="Repost", exact=True)).to_be_visible()
    row(bob.page, "count on me").first.get_by_role("button", name="Unlike").click()
    expect(row(ann.page, "count on me").get_by_role("button", name="Unlike, 1 like")).to_be_visible()


def test_comments_and_answers_come_to_who_reads_the_post(node: Node, join: Join) -> None:
    """One level of answers; who wrote the post may delete what is below it."""
    ann, bob = join(node, "Ann Talks"), join(node, "Bob Talks")
    (post_id,) = publish(ann, "what do you think?")
    for person in (ann, bob):
        visit(person, f"post/{post_id}")
        expect(person.page.get_by_text("No comments yet.")).to_be_visible()
    field = bob.page.get_by_role("textbox", name="Write a comment")
    field.press_sequentially("quite")
    field.press("Shift+Enter")
    field.press_sequentially("a lot")
    field.press("Enter")
    expect(field).to_have_value("")
    comment = ann.page.locator(".comment", has_text="quite a lot").first
    expect(comment.locator(".comment-text")).to_have_text("quite\na lot", use_inner_text=True)
    comment.get_by_role("button", name="Answer").click()
    answer = ann.page.get_by_role("textbox", name="Answer Bob Talks")
    answer.fill("tell me more")
    answer.press("Enter")
    expect(ann.page.locator(".answers .comment", has_text="tell me more")).to_have_count(1)
    bob.page.get_by_role("button", name="1 answer").click()
    expect(bob.page.locator(".answers .comment", has_text="tell me more")).to_be_visible()
    expect(bob.page.get_by_role("heading", name="2 comments")).to_be_visible()
    ann.page.locator(".comment", has_text="quite a lot").first.get_by_role(
        "button", name="Delete"
    ).first.click()
    ann.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    for person in (ann, bob):
        expect(person.page.get_by_text("This comment was deleted")).to_be_visible()
        expect(person.page.locator(".comment", has_text="quite a lot")).to_have_count(0)


def test_following_from_the_profile_brings_the_posts(node: Node, join: Join) -> None:
    """Who follows has the posts in the feed; who is private is asked first."""
    ann, bob = join(node, "Ann Profile"), join(node, "Bob Profile")
    publish(ann, "from my timeline")
    visit(bob, f"u/{ann.user_id}")
    hero = bob.page.locator(".hero")
    expect(row(bob.page, "from my timeline")).to_be_visible()
    hero.get_by_role("button", name="Follow Ann Profile").click()
    expect(hero.get_by_role("button", name="Unfollow Ann Profile")).to_be_visible()
    expect(hero).to_contain_text("1 follower")
    for width in (320, 360, 375):
        bob.page.set_viewport_size({"width": width, "height": 640})
        for name in ("More", "Message", "Unfollow Ann Profile"):
            box = hero.get_by_role("button", name=name).bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width, f"{name} at {width}"
    open_feed(bob)
    expect(row(bob.page, "from my timeline")).to_be_visible()
    visit(ann, f"u/{ann.user_id}")
    ann.page.get_by_role("link", name="1 follower").click()
    expect(ann.page.get_by_role("link", name="Bob Profile")).to_be_visible()
    ann.page.get_by_role("button", name="Back").click()
    private = ann.page.get_by_role("switch", name="Private account")
    private.click()
    expect(private).to_be_checked()
    cleo = join(node, "Cleo Profile")
    visit(cleo, f"u/{ann.user_id}")
    expect(cleo.page.get_by_text("This account is private.")).to_be_visible()
    cleo.page.get_by_role("button", name="Ask to follow Ann Profile").click()
    expect(cleo.page.get_by_role("button", name="Take the request to Ann Profile back")).to_be_visible()
    ann.page.get_by_role("link", name="Requests to follow you").click()
    ann.page.get_by_role("button", name="Accept Cleo Profile").click()
    expect(ann.page.get_by_text("Nobody is waiting for an answer.")).to_be_visible()
    expect(cleo.page.get_by_role("button", name="Unfollow Ann Profile")).to_be_visible()
    cleo.page.reload()
    expect(row(cleo.page, "from my timeline")).to_be_visible()


def test_a_new_user_finds_somebody_from_the_empty_feed(node: Node, join: Join) -> None:
    """The way from nothing to a first post is on the page; an address that leads nowhere says so."""
    ann, bob = join(node, "Quinn Known"), join(node, "Bob New")
    publish(ann, "here I am")
    visit(bob, "nowhere")
    expect(bob.page.get_by_role("heading", name="Nothing here")).to_be_visible()
    visit(bob, "post/123")
    expect(bob.page.get_by_text("This post is not there")).to_be_visible()
    expect(bob.page.get_by_role("button", name="Try again")).to_have_count(0)
    visit(bob, "post/abc")
    expect(bob.page.get_by_role("heading", name="Nothing here")).to_be_visible()
    bob.page.get_by_role("link", name="Go to the feed").click()
    bob.page.get_by_role("link", name="Find people").click()
    field = bob.page.get_by_role("searchbox", name="Find people by name")
    expect(field).to_be_focused()
    field.press_sequentially("zzz")
    expect(bob.page.get_by_text("Nobody found.")).to_be_visible()
    field.fill("quinn")
    found = bob.page.get_by_role("list", name="People found")
    found.get_by_role("button", name="Follow Quinn Known").click()
    expect(found.get_by_role("button", name="Unfollow Quinn Known")).to_be_visible()
    found.get_by_role("link", name="Quinn Known").click()
    expect(row(bob.page, "here I am")).to_be_visible()
    open_feed(bob)
    expect(row(bob.page, "here I am")).to_be_visible()


def test_a_trending_hashtag_opens_the_menu_of_hashtags(node: Node, join: Join) -> None:
    """What trends can be had less of, also where no post with it is on the screen, and that can be undone."""
    people = [join(node, f"{name} Trends") for name in ("Ann", "Bob", "Cleo")]
    for person in people:
        publish(person, "all about #zeppelins")
    page = people[0].page
    trends = {"type": "get_trends", "kind": "hashtag", "window": "hour"}
    while "zeppelins" not in str(tell(people[0], trends)):  # what the node holds may be two seconds old
        page.evaluate("new Promise(done => requestAnimationFrame(done))")
    visit(people[0], "trends")
    tag = page.get_by_role("button", name="#zeppelins")
    tag.click()
    page.get_by_role("menuitem", name="Not interested in #zeppelins").click()
    expect(tag).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(tag).to_be_visible()


def test_what_was_missed_without_a_network_is_counted_and_what_was_written_goes_out(
    node: Node, join: Join
) -> None:
    """After a reconnect the newest page is read again, and a post that waited is posted once."""
    ann, bob = join(node, "Ann Away"), join(node, "Bob Away")
    follow(ann, bob)
    follow(bob, ann)
    publish(bob, "before")
    open_feed(ann)
    expect(row(ann.page, "before")).to_be_visible()
    ann.context.set_offline(True)
    expect(ann.page.locator("html[data-connection=waiting]")).to_be_attached()
    publish(bob, "meanwhile 1", "meanwhile 2")
    ann.page.get_by_role("textbox", name="Write a post").fill("written under way")
    ann.page.get_by_role("button", name="Post", exact=True).click()
    expect(ann.page.locator(".post.pending")).to_have_count(1)
    ann.context.set_offline(False)
    expect(ann.page.locator(".post.pending")).to_have_count(0)
    expect(row(ann.page, "written under way")).to_have_count(1)
    expect(ann.page.locator(".pill")).to_have_text("2 new posts")
    ann.page.locator(".pill").click()
    expect(rows(ann.page)).to_have_count(4)
    assert texts(ann.page) == ["written under way", "meanwhile 2", "meanwhile 1", "before"]


def test_own_posts_are_edited_and_deleted_on_every_screen(node: Node, join: Join) -> None:
    """Whoever looks at a post sees what its author makes of it."""
    ann, bob = join(node, "Ann Edits"), join(node, "Bob Edits")
    follow(bob, ann)
    publish(ann, "to be deleted", "to be edited")
    for person in (ann, bob):
        watch_feed(person)
    menu(ann.page, "to be edited", "Edit")
    field = ann.page.get_by_role("textbox", name="Edit post")
    field.fill("was edited")
    field.press("Control+Enter")
    expect(row(bob.page, "was edited")).to_contain_text("edited")
    menu(ann.page, "to be deleted", "Delete")
    ann.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    for person in (ann, bob):
        expect(rows(person.page)).to_have_count(1)
        assert texts(person.page) == ["was edited"]


def test_muting_and_blocking_take_posts_away_at_once(node: Node, join: Join) -> None:
    """What somebody does not want to see must not stand there until the next reload."""
    ann, bob, cleo = join(node, "Ann Peace"), join(node, "Bob Peace"), join(node, "Cleo Peace")
    follow(ann, bob, cleo)
    publish(bob, "quiet")
    publish(cleo, "loud")
    open_feed(ann)
    expect(rows(ann.page)).to_have_count(2)
    menu(ann.page, "loud", "Mute Cleo Peace")
    expect(row(ann.page, "loud")).to_have_count(0)
    ann.page.get_by_role("button", name="Undo").click()
    expect(row(ann.page, "loud")).to_be_visible()
    menu(ann.page, "loud", "Block")
    ann.page.get_by_role("dialog").get_by_role("button", name="Block").click()
    expect(row(ann.page, "loud")).to_have_count(0)
    ann.page.reload()
    expect(rows(ann.page)).to_have_count(1)
    assert texts(ann.page) == ["quiet"]


def test_markup_in_posts_and_comments_stays_text(node: Node, join: Join) -> None:
    """Whatever people write, it never becomes part of the page."""
    ann, bob = join(node, "Ann Tags"), join(node, "Bob Tags")
    follow(bob, ann)
    text = EVIL + ' javascript:alert(3) https://example.com/"onmouseover=alert(4)'
    (post_id,) = publish(ann, text)
    tell(ann, {"type": "add_comment", "client_id": "evil", "post_id": post_id, "text": text})
    open_feed(bob)
    expect(row(bob.page, EVIL).locator(".post-text")).to_have_text(text)
    row(bob.page, EVIL).get_by_role("link", name="Comment, 1 comment").click()
    expect(bob.page.locator(".comment-text")).to_have_text(text)
    bad = "script:not([src='/js/main.js']), img[src='x'], [onerror], [onmouseover], a[href^='javascript']"
    assert bob.page.locator(bad).count() == 0


def test_a_phone_goes_between_feed_and_chat_by_the_bar(node: Node, join: Join) -> None:
    """One column at a time; the feed stands where it was when the person comes back to it."""
    ann = join(node, "Ann Strolls", viewport={"width": 390, "height": 760})
    bob = join(node, "Bob Phone")
    follow(ann, bob)
    publish(bob, *[f"note {number}" for number in range(12)])
    bar = ann.page.get_by_role("navigation", name="Main")
    bar.get_by_role("link", name="Feed").click()
    expect(row(ann.page, "note 11")).to_be_visible()
    wheel(ann.page, 700)
    assert ann.page.locator(".feed-scroller").evaluate("node => node.scrollTop") > 0
    # Not by scrollTop: that moves as rows above are drawn for the first time, so that what is read does not.
    item, top = rows(ann.page).evaluate_all("""rows => {
      const first = rows.find(row => row.getBoundingClientRect().top > 60);
      return [first.dataset.item, first.getBoundingClientRect().top];
    }""")
    bar.get_by_role("link", name="Chat").click()
    expect(ann.page.get_by_role("button", name="New conversation")).to_be_visible()
    expect(ann.page.get_by_role("heading", name="Feed")).to_be_hidden()
    bar.get_by_role("link", name="Feed").click()
    expect(ann.page.get_by_role("heading", name="Feed")).to_be_visible()
    ann.page.wait_for_function(
        """([item, top]) => {
          const row = document.querySelector(`.feed-rows [data-item="${item}"]`);
          return Math.abs(row.getBoundingClientRect().top - top) < 2;
        }""",
        arg=[item, top],
    )
    assert ann.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
