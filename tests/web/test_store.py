"""The page's store applies each event once and in order, however the network delivers them.

`web/js/store.js` runs where it runs for people, in a browser; the events and the expected end come from here.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]

ME, OTHERS = "me", ("ann", "bob")
EMOJI = ("👍", "🎉")

# Deliver by a plan, answer what the store asks for from the log, and tell what it then holds.
DRIVE = """
async ({ log, start, history, summary, focus, plan, end }) => {
  const { Store } = await import("/js/store.js");
  const needs = [];
  const store = new Store({ onneed: (kind, id) => needs.push([kind, id]), now: () => 0 });
  store.me = { user_id: "me", name: "Me", username: "me" };
  store.focus = new Set(focus ? ["c"] : []);
  store.applySummary(summary);
  if (history) store.startTimeline("c", start, history, false);
  const sync = (limit, late = 0) => {
    const after = Math.max(0, store.conversation("c").cursor - late);
    const items = log.filter((event) => event.seq > after).slice(0, limit);
    store.applyPage("c", items, log.length);
  };
  let asked = 0;
  for (const step of plan) {
    if (step.seq) store.apply(log[step.seq - 1]);
    if (step.hint) store.apply({ type: "heads", items: [step.hint] });
    if (step.answer && needs.some(([kind]) => kind === "sync")) {
      needs.splice(0, needs.length, ...needs.filter(([kind]) => kind !== "sync"));
      asked += 1;
      sync(step.answer, step.late);
    }
  }
  let left = end === "sync" ? 100 : 0;
  for (; left && store.conversation("c").cursor < log.length; left -= 1) sync(3);
  const c = store.conversation("c");
  return {
    asked,
    needs: needs.map(([kind]) => kind),
    cursor: c.cursor,
    unread: c.unread,
    message_count: c.message_count,
    title: c.title,
    last: c.last_message ? c.last_message.seq : 0,
    pending: c.pending.size,
    ahead: c.ahead.size,
    messages: store.timeline("c").filter((item) => !item.type).map((item) => ({
      seq: item.seq,
      text: item.text || "",
      deleted: Boolean(item.deleted),
      reactions: (item.reactions || []).map((one) => [one.emoji, one.user_ids]),
      thread_count: item.thread_count || 0,
    })),
  };
}
"""


@dataclass
class Model:
    """A conversation as the server holds it, and the log that made it."""

    log: list[dict[str, Any]] = field(default_factory=list)
    messages: dict[int, dict[str, Any]] = field(default_factory=dict)
    title: str = "first"

    def do(self, user: str, kind: str, pick: int, emoji: str) -> None:
        """Append one event; kinds that need a message are skipped where there is none."""
        seq = len(self.log) + 1
        event: dict[str, Any] = {"conversation_id": "c", "seq": seq, "at_ms": 1000 + seq, "user_id": user}
        alive = [one for one in self.messages.values() if not one["deleted"]]
        target = alive[pick % len(alive)] if alive else None
        if kind == "message" or target is None:
            thread = target["seq"] if target and pick % 4 == 0 else 0
            event |= {"type": "message", "text": f"text {seq}", "message_count": len(self.messages) + 1}
            if thread:
                event["thread"] = thread
                self.messages[thread]["thread_count"] += 1
            self.messages[seq] = {
                "seq": seq,
                "user_id": user,
                "at_ms": event["at_ms"],
                "text": event["text"],
                "thread": thread,
                "deleted": False,
                "reactions": {},
                "thread_count": 0,
            }
        elif kind == "edited":
            event |= {"type": "edited", "target": target["seq"], "text": f"edit {seq}"}
            target["text"] = event["text"]
        elif kind == "deleted":
            event |= {"type": "deleted", "target": target["seq"]}
            target.update(text="", deleted=True, reactions={})
        elif kind == "reacted":
            users = target["reactions"].setdefault(emoji, [])
            event |= {"type": "reacted", "target": target["seq"], "emoji": emoji, "removed": user in users}
            if user in users:
                users.remove(user)
                if not users:
                    del target["reactions"][emoji]
            else:
                users.append(user)
        else:
            event |= {"type": "renamed", "title": f"title {seq}"}
            self.title = event["title"]
        self.log.append(event)

    @property
    def read_seq(self) -> int:
        """Sending reads up to what was sent; nobody reads otherwise here."""
        return max((one["seq"] for one in self.messages.values() if one["user_id"] == ME), default=0)

    @property
    def unread(self) -> int:
        return sum(
            one["user_id"] != ME and not one["deleted"] and one["seq"] > self.read_seq
            for one in self.messages.values()
        )

    def wire(self) -> list[dict[str, Any]]:
        """The messages as `history` tells them."""
        return [
            {
                **one,
                "conversation_id": "c",
                "reactions": [{"emoji": e, "user_ids": list(u)} for e, u in one["reactions"].items()],
            }
            for one in self.messages.values()
        ]

    def shown(self) -> list[dict[str, Any]]:
        """The messages as the page must hold them."""
        return [
            {
                "seq": one["seq"],
                "text": one["text"],
                "deleted": one["deleted"],
                "reactions": [[emoji, users] for emoji, users in one["reactions"].items()],
                "thread_count": one["thread_count"],
            }
            for one in self.messages.values()
        ]

    def summary(self) -> dict[str, Any]:
        return {
            "conversation_id": "c",
            "kind": "group",
            "title": self.title,
            "head": len(self.log),
            "message_count": len(self.messages),
            "unread": self.unread,
            "read_seq": self.read_seq,
        }


Ops = list[tuple[str, str, int, str]]
operations: st.SearchStrategy[Ops] = st.lists(
    st.tuples(
        st.sampled_from((ME, *OTHERS)),
        st.sampled_from(("message", "message", "message", "edited", "deleted", "reacted", "renamed")),
        st.integers(0, 50),
        st.sampled_from(EMOJI),
    ),
    min_size=1,
    max_size=25,
)


def drive(page: Page, **arguments: Any) -> dict[str, Any]:
    held: dict[str, Any] = page.evaluate(DRIVE, arguments)
    return held


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), before=operations, after=operations)
def test_any_delivery_ends_in_what_a_fresh_snapshot_shows(
    blank: Page, data: st.DataObject, before: Ops, after: Ops
) -> None:
    """Duplicates, losses and reorderings change nothing: people see the conversation as it is."""
    model = Model()
    for operation in before:
        model.do(*operation)
    start, history, summary = len(model.log), model.wire(), model.summary()
    for operation in after:
        model.do(*operation)
    deliveries = data.draw(st.lists(st.integers(1, len(model.log)), max_size=60), label="delivered seqs")
    plan: list[dict[str, Any]] = [
        {
            "seq": seq,
            "answer": data.draw(st.sampled_from((0, 0, 1, 5)), label="sync page"),
            # The answer was asked for before the last few events came by themselves.
            "late": data.draw(st.integers(0, 4), label="events that came meanwhile"),
        }
        for seq in deliveries
    ]
    held = drive(
        blank, log=model.log, start=start, history=history, summary=summary, focus=True, plan=plan, end="sync"
    )
    assert held["messages"] == model.shown()
    assert held["cursor"] == len(model.log)
    assert held["pending"] == held["ahead"] == 0
    assert (held["title"], held["message_count"]) == (model.title, len(model.messages))
    if "summary" not in held["needs"]:  # a deletion of what is not loaded asks the server for the count
        assert held["unread"] == model.unread


@given(before=operations, after=operations)
def test_in_order_events_need_no_sync(blank: Page, before: Ops, after: Ops) -> None:
    """On a good network the page reads nothing twice: the server's load is one event per session."""
    model = Model()
    for operation in before:
        model.do(*operation)
    start, history, summary = len(model.log), model.wire(), model.summary()
    for operation in after:
        model.do(*operation)
    plan = [{"seq": seq, "answer": 200} for seq in range(start + 1, len(model.log) + 1)]
    held = drive(
        blank, log=model.log, start=start, history=history, summary=summary, focus=True, plan=plan, end=""
    )
    assert held["asked"] == 0
    assert held["messages"] == model.shown()
    assert held["unread"] == model.unread


@given(before=operations, after=operations, batch=st.integers(1, 8))
def test_hints_and_deletions_keep_the_badge_of_an_unseen_conversation_exact(
    blank: Page, before: Ops, after: Ops, batch: int
) -> None:
    """Off the screen only coalesced heads come, and deletions in full; the badge is still right.

    Where the store cannot know, it must ask for the summary rather than guess.
    """
    model = Model()
    for operation in before:
        model.do(*operation)
    summary = model.summary()
    start = len(model.log)
    plan: list[dict[str, Any]] = []
    asks_anyway = False
    for place, operation in enumerate(after, 1):
        # Our own messages make the server send `read` as well, which is tested by itself.
        model.do("ann" if operation[0] == ME else operation[0], *operation[1:])
        event = model.log[-1]
        if event["type"] == "deleted":
            plan.append({"seq": event["seq"]})
            asks_anyway = True
        if place % batch == 0 or place == len(after):
            last = max(model.messages.values(), key=lambda one: one["seq"])
            hint = {"conversation_id": "c", "head": len(model.log), "message_count": len(model.messages)}
            plan.append({"hint": {**hint, "last_message": {**last, "conversation_id": "c", "reactions": []}}})
    held = drive(
        blank, log=model.log, start=start, history=None, summary=summary, focus=False, plan=plan, end=""
    )
    assert held["message_count"] == len(model.messages)
    if asks_anyway and "summary" in held["needs"]:
        return
    assert held["unread"] == model.unread
