"""Who is told what of a conversation: the rules alone."""

from hypothesis import given
from hypothesis import strategies as st

from actors.chat_notices import Absent, messages_due, pause_s, preview
from actors.notify.address import partition_of
from actors.notify.messages import Notify
from protocol.types import Attachment, Message

NAMES = {"ann": "Ann", "bob": "Bob"}


def message(seq: int, user_id: str = "ann", text: str = "hi", **more: object) -> Message:
    return Message(conversation_id="c", seq=seq, at_ms=1, user_id=user_id, text=text, **more)  # type: ignore[arg-type]


def due(messages: list[Message], *absent: Absent, title: str = "") -> list[Notify]:
    return [notify for _, notify in messages_due("c", "app", title, messages, NAMES, absent)]


def test_a_burst_is_one_notification_of_the_newest_message() -> None:
    (notify,) = due([message(4, text="one"), message(5, text="two")], Absent("cai", 3, 2), title="Hikers")
    assert (notify.user_ids, notify.key, notify.source) == (("cai",), "chat:c:5", "chat")
    content = notify.content
    assert (content.type, content.template, content.actor) == ("chat", "chat", "Ann")
    assert (content.subject, content.collapse_key, content.url) == ("c", "c", "/#c/c")
    assert content.data == {
        "conversation_id": "c",
        "seq": 5,
        "unread": 2,
        "text": "two",
        "conversation": "Hikers",
    }


def test_what_was_read_sent_or_deleted_is_not_told() -> None:
    messages = [message(4), message(5, "bob"), message(6, deleted=True)]
    assert due(messages, Absent("cai", 5, 0), Absent("bob", 5, 0)) == []
    (notify,) = due(messages, Absent("cai", 4, 1))
    assert (notify.content.data["seq"], notify.key) == (5, "chat:c:6")
    assert due([message(6, deleted=True)], Absent("cai", 0, 0)) == []
    assert due([], Absent("cai", 0, 0)) == []


def test_who_muted_hears_of_mentions_alone() -> None:
    messages = [message(4, mentions=["cai"], text="cai!"), message(5, text="and so on")]
    assert due([message(5)], Absent("cai", 0, 1, is_muted=True)) == []
    (notify,) = due(messages, Absent("cai", 0, 2, is_muted=True))
    assert (notify.content.type, notify.content.data["text"]) == ("mention", "cai!")
    (notify,) = due(messages, Absent("cai", 4, 1))  # the mention was read
    assert notify.content.type == "chat"


def test_files_are_counted() -> None:
    file = Attachment(file_id="f", name="a.txt", media_type="text/plain", size_bytes=1)
    (notify,) = due([message(4, text="", files=[file, file])], Absent("cai", 0, 1))
    assert (notify.content.data["files"], notify.content.data["text"]) == (2, "")


@given(
    reads=st.lists(st.integers(0, 9), max_size=60),
    mentioned=st.sets(st.integers(0, 59)),
    muted=st.sets(st.integers(0, 59)),
)
def test_each_is_asked_for_once_at_the_own_partition(
    reads: list[int], mentioned: set[int], muted: set[int]
) -> None:
    """Nobody is left out or told twice, however they are put together."""
    mentions = [f"u{number}" for number in sorted(mentioned)]
    messages = [message(seq, mentions=mentions if seq == 5 else []) for seq in range(3, 8)]
    absent = [Absent(f"u{n}", seq, 7 - seq, is_muted=n in muted) for n, seq in enumerate(reads)]
    asked = messages_due("c", "app", "", messages, NAMES, absent)
    for partition, notify in asked:
        assert {partition_of(user_id) for user_id in notify.user_ids} == {partition}
    told = sorted(user_id for _, notify in asked for user_id in notify.user_ids)
    wanted = [
        f"u{n}" for n, seq in enumerate(reads) if seq < 7 and (n not in muted or (n in mentioned and seq < 5))
    ]
    assert told == sorted(wanted)


@given(st.text(max_size=2_000))
def test_a_preview_is_one_short_line(text: str) -> None:
    line = preview(text)
    assert len(line) <= 200
    assert line.splitlines() in ([line], [])


def test_a_crowd_that_is_away_is_told_more_rarely() -> None:
    assert pause_s(1) == 1.0
    assert pause_s(500) == 10.0
    assert pause_s(100_000) == 30.0
