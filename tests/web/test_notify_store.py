"""The page's notification centre holds what the server's does, however events are lost, doubled or late.

`web/js/notify_store.js` runs where it runs for people, in a browser; the server is a list in this file.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]

# A server of one centre. Events about it may get lost; answers may be older than events that came before.
DRIVE = """
async ({ steps, page_size }) => {
  const { NotifyStore } = await import("/js/notify_store.js");
  let notes = []; // newest first
  let next_id = 1;
  let isBroken = false; // something was lost
  const events = [];
  const store = new NotifyStore();
  const unread = () => notes.filter((note) => !note.read).length;
  const told = (note) => ({ ...note });
  const page = (before) => {
    const from = before ? notes.filter((note) => note.notification_id < before) : notes;
    return { items: from.slice(0, page_size).map(told), unread: unread(), more: from.length > page_size };
  };
  const notify = () => {
    const note = { notification_id: next_id, type: "t", at_ms: next_id, read: false, seen: false, count: 0 };
    notes.unshift(note);
    next_id += 1;
    events.push({ type: "notification", item: told(notes[0]), unread: unread() });
  };
  const grow = (at) => {
    const note = notes[at % notes.length];
    Object.assign(note, { count: (note.count || 1) + 1, read: false, seen: false });
    events.push({ type: "notification", item: told(note), unread: unread() });
  };
  const mark = (id, kind) => {
    const note = notes.find((one) => one.notification_id === id);
    if (!note) return false;
    if (kind === "unread") note.read = false;
    else note.seen = true;
    if (kind !== "unread" && kind !== "seen") note.read = true;
    if (kind === "dismissed") notes = notes.filter((one) => one !== note);
    events.push({ type: "notifications_marked", mark: kind, notification_ids: [id], unread: unread() });
    return true;
  };
  const begun = []; // answers of reads on their way
  const begin = () => {
    store.beginPage();
    begun.push(page(0));
  };
  const end = () => {
    if (!begun.length) return;
    store.startPage(begun.shift());
    if (!begun.length) store.endPage();
  };
  for (let number = 0; number < 7; number += 1) notify();
  events.length = 0;
  begin();
  end();
  store.addOlder(store.oldest, page(store.oldest));
  for (const [kind, argument, what] of steps) {
    if (kind === "notify") notify();
    else if (kind === "grow" && notes.length) grow(argument);
    else if (kind === "mark" && notes.length) mark(notes[argument % notes.length].notification_id, what);
    else if (kind === "own" && store.shown().length) {
      // Marked here: on the screen at once, then confirmed, then heard of.
      const { notification_id } = store.shown()[argument % store.shown().length];
      store.wish(notification_id, what);
      mark(notification_id, what);
      for (const event of events.splice(0)) store.apply(event);
      store.confirm([notification_id], what, unread());
    } else if (kind === "lose") isBroken = events.splice(0, argument).length > 0 || isBroken;
    else if (kind === "deliver") for (const event of events.splice(0, argument)) store.apply(event);
    else if (kind === "older" && !store.is_end && !begun.length) {
      store.addOlder(store.oldest, page(store.oldest));
    } else if (kind === "begin" && !begun.length) begin();
    else if (kind === "end") {
      // One connection: answers and events keep their order.
      for (const event of events.splice(0)) store.apply(event);
      end();
    }
  }
  while (begun.length) end();
  for (const event of events.splice(0)) store.apply(event);
  // The connection comes back, or a count was not as it should be. Else nobody has to ask again.
  if (isBroken) {
    begin();
    end();
  }
  const of = ({ notification_id, read, count }) => [notification_id, read, count];
  const low = store.is_end ? 0 : store.oldest;
  return {
    shown: store.shown().map(of),
    expected: notes.filter((note) => note.notification_id >= low).map(of),
    badge: store.unread,
    unread: unread(),
    wishes: store.wishes.size,
  };
}
"""

MARKS = st.sampled_from(["seen", "read", "unread", "clicked", "dismissed"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["notify", "begin", "end", "older"]), st.just(0), st.just("")),
        st.tuples(st.sampled_from(["lose", "deliver"]), st.integers(1, 3), st.just("")),
        st.tuples(st.just("grow"), st.integers(0, 9), st.just("")),
        st.tuples(st.sampled_from(["mark", "own"]), st.integers(0, 9), MARKS),
    ),
    min_size=3,
    max_size=30,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_after_a_read_the_centre_is_the_servers_whatever_was_lost(blank: Page, steps: list[Any]) -> None:
    """The bell is exact, and the list has no hole: readers trust both."""
    found = blank.evaluate(DRIVE, {"steps": steps, "page_size": 4})
    assert found["shown"] == found["expected"]
    assert found["badge"] == found["unread"]
    assert found["wishes"] == 0


def test_a_lost_event_is_noticed_by_the_count(blank: Page) -> None:
    """Nobody has to wait for a reconnect to see what was missed."""
    needs = blank.evaluate(
        """async () => {
          const { NotifyStore } = await import("/js/notify_store.js");
          const needs = [];
          const store = new NotifyStore({ onneed: (kind) => needs.push(kind) });
          const item = (notification_id) => ({ notification_id, type: "t", at_ms: 1, text: "x" });
          store.beginPage();
          store.startPage({ items: [item(1)], unread: 1 });
          store.endPage();
          store.apply({ type: "notification", item: item(2), unread: 2 });
          const before = needs.length;
          store.apply({ type: "notification", item: item(4), unread: 4 }); // 3 was lost
          return [before, needs];
        }"""
    )
    assert needs == [0, ["notifications"]]
