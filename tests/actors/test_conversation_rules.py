"""Who may do what, without a store: the rules at their edges."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import conversation_rules as rules
from actors.conversation_rules import ConversationState, MemberState, Target
from protocol.errors import Refused
from protocol.limits import EDIT_WINDOW_MS, MAX_GROUP_MEMBERS, MAX_REACTION_KINDS, MAX_TEXT_BYTES
from protocol.records import InviteRow, MessageState
from protocol.types import ConversationKind, Reaction, Role

NOW_MS = 10**12


def make_state(kind: ConversationKind = "group", **roles: Role) -> ConversationState:
    state = ConversationState("c1", "default", kind, "Title", 1, "ann")
    state.members = {user_id: MemberState(user_id, role, 1) for user_id, role in roles.items()}
    return state


def make_target(user_id: str = "ann", *, age_ms: int = 0, deleted_at_ms: int = 0) -> Target:
    state = MessageState(conversation_id="c1", seq=5, deleted_at_ms=deleted_at_ms)
    return Target(5, user_id, NOW_MS - age_ms, 0, [], state)


def code_of(rule: Callable[[], object]) -> str:
    try:
        rule()
    except Refused as error:
        return error.code
    return ""


@given(st.text(max_size=50), st.integers(-3, 3))
def test_a_text_is_measured_in_utf8_bytes(tail: str, over: int) -> None:
    """Short texts are judged without encoding them; the verdict must be the same."""
    room = MAX_TEXT_BYTES + over - len(tail.encode("utf-8", "surrogatepass"))
    text = "x" * room + tail
    code = code_of(lambda: rules.check_text(text, has_files=False))
    assert code == ("text_too_long" if over > 0 else "")


@pytest.mark.parametrize(
    ("text", "has_files", "code"),
    [("", False, "text_empty"), ("", True, ""), (" \n", False, "text_empty"), (" ", True, "")],
)
def test_a_message_needs_text_or_a_file(text: str, has_files: bool, code: str) -> None:
    assert code_of(lambda: rules.check_text(text, has_files=has_files)) == code


def test_ids_are_the_same_from_both_sides_and_differ_by_app() -> None:
    """Every node must name the one direct conversation of two users alike."""
    assert rules.direct_id("a", "x", "y") == rules.direct_id("a", "y", "x")
    assert rules.direct_id("a", "x", "y") != rules.direct_id("b", "x", "y")
    assert rules.group_id("a", "x", "k") != rules.group_id("a", "y", "k")
    ids = {rules.group_id("a", "x", "k"), rules.direct_id("a", "x", "k")}
    assert len(ids) == 2


@pytest.mark.parametrize("age_ms", [0, EDIT_WINDOW_MS, EDIT_WINDOW_MS + 1])
@pytest.mark.parametrize("role", ["owner", "admin", "member"])
@pytest.mark.parametrize("kind", ["group", "direct"])
@pytest.mark.parametrize("author", ["me", "other"])
def test_edit_and_delete_follow_author_age_and_role(
    kind: ConversationKind, role: Role, author: str, age_ms: int
) -> None:
    """The whole table."""
    me = MemberState("me", role, 1)
    target = make_target(author, age_ms=age_ms)
    own = "not_author" if author != "me" else "edit_too_late" if age_ms > EDIT_WINDOW_MS else ""
    assert code_of(lambda: rules.may_edit(me, target, NOW_MS)) == own
    is_admin = kind == "group" and role != "member"
    delete = code_of(lambda: rules.may_delete(make_state(kind), me, target, NOW_MS))
    assert delete == ("" if is_admin else own)
    gone = make_target("me", deleted_at_ms=1)
    assert code_of(lambda: rules.may_edit(me, gone, NOW_MS)) == "message_deleted"


@pytest.mark.parametrize("actor", ["owner", "admin", "member"])
@pytest.mark.parametrize("other", ["owner", "admin", "member"])
def test_power_works_downwards_only(actor: Role, other: Role) -> None:
    verdict = code_of(lambda: rules.outranks(MemberState("a", actor, 1), MemberState("b", other, 1)))
    assert (verdict == "") == (rules.RANK[actor] > rules.RANK[other])


def test_posting_ends_with_silence_and_blocks() -> None:
    state, direct = make_state(ann="member"), make_state("direct", ann="member", bob="member")
    member = state.members["ann"]
    member.silenced_until_ms = NOW_MS
    assert code_of(lambda: rules.may_post(state, member, NOW_MS)) == ""  # it has just ended
    assert code_of(lambda: rules.may_post(state, member, NOW_MS - 1)) == "silenced"
    for pair in (("ann", "bob"), ("bob", "ann")):
        direct.blocks = {pair}
        assert code_of(lambda: rules.may_post(direct, direct.members["ann"], NOW_MS)) == "blocked"


def test_a_full_group_takes_nobody_and_a_banned_user_spoils_the_whole() -> None:
    state = make_state(ann="owner")
    state.banned = {"bad"}
    state.members |= {f"u{n}": MemberState(f"u{n}", "member", 1) for n in range(MAX_GROUP_MEMBERS - 2)}
    assert rules.whom_to_add(state, ["new", "ann", "new"]) == ["new"]
    assert code_of(lambda: rules.whom_to_add(state, ["new", "newer"])) == "group_full"
    assert code_of(lambda: rules.whom_to_add(state, ["bad"])) == "banned"
    assert set(state.members) == {"ann", *(f"u{n}" for n in range(MAX_GROUP_MEMBERS - 2))}


@pytest.mark.parametrize(
    ("changes", "works"),
    [
        ({}, True),
        ({"revoked_at_ms": 1}, False),
        ({"expires_at_ms": NOW_MS}, False),
        ({"expires_at_ms": NOW_MS + 1}, True),
        ({"max_uses": 2, "uses": 1}, True),
        ({"max_uses": 2, "uses": 2}, False),
    ],
)
def test_an_invite_works_until_it_is_spent(changes: dict[str, int], works: bool) -> None:
    row = InviteRow(code="x", conversation_id="c", app_id="a", created_by="ann", created_at_ms=1, **changes)
    assert (code_of(lambda: rules.usable_invite(row, NOW_MS)) == "") is works
    assert code_of(lambda: rules.usable_invite(None, NOW_MS)) == "invite_not_found"


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from([f"e{n}" for n in range(60)]), st.booleans()),
        max_size=120,
    )
)
def test_reactions_are_a_set_of_users_for_each_emoji(steps: list[tuple[str, str, bool]]) -> None:
    """Whatever is set and taken back, each user counts once and an emoji without users is gone."""
    reactions: list[Reaction] = []
    model: dict[str, set[str]] = {}
    for user_id, emoji, removed in steps:
        users = model.get(emoji, set())
        is_full = emoji not in model and len(model) >= MAX_REACTION_KINDS and not removed
        if is_full:
            with pytest.raises(Refused, match="too_many_reactions"):
                rules.react(reactions, user_id, emoji, removed=False)
            continue
        changed = rules.react(reactions, user_id, emoji, removed=removed)
        assert (changed is None) == ((user_id in users) is not removed)
        if changed is not None:
            reactions = changed
            users = users - {user_id} if removed else users | {user_id}
            model[emoji] = users
            if not users:
                del model[emoji]
    assert {r.emoji: set(r.user_ids) for r in reactions} == model
    assert all(len(set(r.user_ids)) == len(r.user_ids) for r in reactions)


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(0, 30))
def test_unread_counts_each_deletion_once(deleted: list[int], read_seq: int) -> None:
    """A deletion that is noted twice must not take two from the badge."""
    state = make_state(ann="member")
    state.message_count = 30
    member = state.members["ann"]
    member.read_seq = member.read_count = read_seq
    for seq in deleted:
        state.note_deleted(seq)
    assert state.deleted_seqs == sorted(set(deleted))
    assert state.unread_of(member) == len(set(range(read_seq + 1, 31)) - set(deleted))
