"""Reading IRC logs and planning their replay."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub.irc import EMPTY_TEXT, Line, Log, Plan, parse_line, parse_log, plan
from hubbub.replay.check import message_authors, read_watermarks
from protocol import events as e


@pytest.mark.parametrize(
    ("raw", "kind", "nick", "text"),
    [
        (b"[07:16] <ann> hello there", "say", "ann", "hello there"),
        (b"[07:16] <ann>", "say", "ann", ""),
        (b"[07:16]  * ann waves", "action", "ann", "waves"),
        (b"=== ann waves", "action", "ann", "waves"),
        (b"=== ann [~a@host.example]  has joined #ubuntu", "join", "ann", ""),
        (b"=== [A] ndy [n=w@h.example]  has joined #Ubuntu", "join", "[A]ndy", ""),
        (b"=== ann [~a@host.example]  has left #ubuntu []", "part", "ann", ""),
        (b"=== ann is now known as ann_away", "rename", "ann", "ann_away"),
        (b"=== el was kicked off #ubuntu by LoRez (LoRez)", "kick", "el", "LoRez"),
        (b"=== mode/#ubuntu [+o gnomefreak]  by ChanServ", "other", "", ""),
        (b"[99:16] <ann> not a time", "other", "", ""),
        (b"[07:16] <ann> caf\xe9", "say", "ann", "caf\u00e9"),
        ("[07:16] <ann> café".encode(), "say", "ann", "café"),
        (b"[07:16] <ann> \x81\xff", "say", "ann", "\ufffd\xff"),
        (b"[07:16] <ann> <bob> quoted", "say", "ann", "<bob> quoted"),
    ],
)
def test_each_kind_of_line_is_understood(raw: bytes, kind: str, nick: str, text: str) -> None:
    """Whoever replays a log finds its lines, nicks and renames again."""
    line = parse_line(raw, 1)
    assert line is not None
    assert line.kind == kind
    if kind != "other":
        assert (line.nick, line.text) == (nick, text)


@given(st.binary(max_size=200))
def test_any_bytes_are_some_line(raw: bytes) -> None:
    """A broken log never stops a replay."""
    line = parse_line(raw, 3)
    assert line is None or line.number == 3


@given(st.lists(st.binary(max_size=60).filter(lambda raw: b"\n" not in raw), max_size=20))
def test_line_numbers_are_those_of_the_file(rows: list[bytes]) -> None:
    """The number is in the line's idempotency key, so it must not move."""
    log = parse_log("a.txt", b"\n".join(rows))
    for line in log.lines:
        assert parse_line(rows[line.number - 1], line.number) == line


nicks = st.sampled_from(["ann", "bob", "carl", "dora", "eve"])
lines = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["say", "join", "part", "kick"]), nicks, st.just("x")),
        st.tuples(st.just("rename"), nicks, nicks),
    ),
    max_size=60,
)


def log_of(rows: list[tuple[str, str, str]], name: str = "a.txt") -> Log:
    return Log(
        name,
        [
            Line(number=number, kind=kind, nick=nick, text=text)  # type: ignore[arg-type]  # drawn from LineKind
            for number, (kind, nick, text) in enumerate(rows, 1)
        ],
    )


@given(rows=lines, max_members=st.integers(1, 4))
def test_a_plan_can_always_be_played(rows: list[tuple[str, str, str]], max_members: int) -> None:
    """Nobody speaks or leaves who is not in the group, nobody joins twice, and the group stays small."""
    members: set[str] = set()
    wanted = plan([log_of(rows)], max_members=max_members)
    for step in wanted.steps:
        assert step.account in wanted.accounts
        if step.kind == "join":
            assert step.account not in members
            members.add(step.account)
        elif step.kind in ("leave", "remove"):
            members.remove(step.account)
        elif step.kind == "say":
            assert step.account in members
        assert len(members) <= max_members
    said = [step for step in wanted.steps if step.kind == "say"]
    assert len(said) == wanted.line_count == sum(kind == "say" for kind, _, _ in rows)


@given(rows=lines)
def test_at_any_time_a_nick_is_one_account_and_an_account_one_nick(rows: list[tuple[str, str, str]]) -> None:
    """A rename changes a name, not who somebody is: two accounts never go by one name in the group."""
    wanted = plan([log_of(rows)], max_members=100)
    names: dict[str, str] = {}
    members: set[str] = set()
    for step in wanted.steps:
        if step.kind == "name":
            names[step.account] = step.text
        elif step.kind == "join":
            members.add(step.account)
        elif step.kind in ("leave", "remove"):
            members.discard(step.account)
        shown = [names.get(account, account) for account in members]
        assert len(shown) == len(set(shown)), step


@given(rows=lines)
def test_plans_and_line_ids_are_the_same_each_time(rows: list[tuple[str, str, str]]) -> None:
    """A replay that is started again must meet its own lines."""
    first = plan([log_of(rows), log_of(rows, "b.txt")], max_members=3)
    assert first == plan([log_of(rows), log_of(rows, "b.txt")], max_members=3)
    ids = [step.client_id for step in first.steps if step.kind == "say"]
    assert len(ids) == len(set(ids))
    assert all(len(key) <= 64 for key in ids)


def steps_of(text: str) -> Plan:
    return plan([parse_log("day.txt", text.encode())], max_members=10)


def texts(wanted: Plan) -> Sequence[str]:
    return [step.text for step in wanted.steps if step.kind == "say"]


def test_a_nick_that_is_renamed_and_comes_back_is_the_same_account() -> None:
    """sid77 -> sid77_ -> sid77 is one person."""
    wanted = steps_of("[10:00] <sid> a\n=== sid is now known as sid_\n[10:01] <sid_> b\n[10:02] <sid> c\n")
    assert wanted.accounts == ["sid"]
    assert [(step.kind, step.text) for step in wanted.steps] == [
        ("join", ""),
        ("say", "a"),
        ("name", "sid_"),
        ("say", "b"),
        ("name", "sid"),
        ("say", "c"),
    ]


def test_empty_lines_and_actions_are_lines_of_chat() -> None:
    """Every line is stored: the count can be checked against the file."""
    assert texts(steps_of("[10:00] <ann>\n[10:00]  * ann waves\n=== ann hugs bob\n")) == [
        EMPTY_TEXT,
        "* ann waves",
        "* ann hugs bob",
    ]


def test_time_goes_over_midnight_and_never_back() -> None:
    """A log that ends after midnight is played on, not from the morning."""
    wanted = steps_of("[23:59] <ann> a\n[00:01] <ann> b\n[00:00] <ann> c\n[00:02] <ann> d\n")
    at_s = [step.at_s for step in wanted.steps if step.kind == "say"]
    assert at_s == sorted(at_s)
    assert at_s[0] == 0.0
    assert at_s[-1] == 180.0


def test_watermarks_follow_joins_and_sends_and_deleted_messages_do_not_count() -> None:
    """--verify works the unread counts out by these two."""
    events: list[e.Event] = [
        e.ConversationCreated(
            conversation_id="r", seq=1, at_ms=1, user_id="ann", kind="group", member_ids=["ann"]
        ),
        e.MembersAdded(conversation_id="r", seq=2, at_ms=1, user_id="ann", member_ids=["bob", "eve"]),
        e.MessagePosted(conversation_id="r", seq=3, at_ms=1, user_id="bob", text="x"),
        e.MessagePosted(conversation_id="r", seq=4, at_ms=1, user_id="ann", text="y"),
        e.MessageDeleted(conversation_id="r", seq=5, at_ms=1, user_id="ann", target=4),
        e.MemberRemoved(conversation_id="r", seq=6, at_ms=1, user_id="eve", member_id="eve"),
    ]
    assert read_watermarks(events) == {"ann": 4, "bob": 3}
    assert message_authors(events) == [(3, "bob")]
