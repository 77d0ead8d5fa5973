"""Rules of contacts: every interleaving of two people's commands ends in agreement."""

from collections import deque
from typing import NamedTuple

from actors import user_rules
from actors.user_rules import Circle
from protocol.records import ContactRow

AGREEING = {("", ""), ("requested", "incoming"), ("incoming", "requested"), ("accepted", "accepted")}
COMMANDS = ("request", "accept", "decline", "remove", "block", "unblock")
MAX_COMMANDS = 4


class Side(NamedTuple):
    """One user's own side: the contact's state, and whether the other is blocked."""

    state: str = ""
    has_blocked: bool = False


def circle_of(side: Side) -> Circle:
    row = ContactRow(user_id="a", other_id="b", state=side.state, since_ms=1)
    return Circle({"b": row} if side.state else {}, {"b"} if side.has_blocked else set())


def command(side: Side, name: str, *, is_blocked: bool) -> tuple[Side, str]:
    """What a command does to the own side, and what it tells the other."""
    match name:
        case "request" if not side.has_blocked and not is_blocked:
            state = user_rules.after_request(circle_of(side), "b")
            if state is not None:
                return side._replace(state=state), "accepted" if state == "accepted" else "asked"
        case "accept" if side.state == "incoming":
            return side._replace(state="accepted"), "accepted"
        case "decline" if side.state == "incoming":
            return side._replace(state=""), "gone"
        case "remove" if side.state:
            return side._replace(state=""), "gone"
        case "block":
            return Side("", True), "gone" if side.state else ""
        case "unblock":
            return side._replace(has_blocked=False), ""
    return side, ""


def told(side: Side, tell: str) -> tuple[Side, str]:
    """What a tell does, as the user's actor does it."""
    match tell:
        case "asked" if side.has_blocked:
            return side, "gone"
        case "asked":
            state = user_rules.after_asked(circle_of(side), "b")
            if state is not None:
                return side._replace(state=state), "accepted" if state == "accepted" else ""
        case "accepted" if not side.state:
            return side, "gone"
        case "accepted":
            return side._replace(state="accepted"), ""
        case "gone" if side.state:
            return side._replace(state=""), "gone"
    return side, ""


class Pair(NamedTuple):
    """Two sides, the tells under way in each direction, and how many commands may still be given."""

    a: Side = Side()
    b: Side = Side()
    to_a: tuple[str, ...] = ()
    to_b: tuple[str, ...] = ()
    left: int = MAX_COMMANDS

    def flip(self) -> "Pair":
        return Pair(self.b, self.a, self.to_b, self.to_a, self.left)


def steps(pair: Pair) -> list[Pair]:
    """What side `a` may do next: give a command, or take the oldest tell."""
    found = []
    if pair.left:
        for name in COMMANDS:
            a, tell = command(pair.a, name, is_blocked=pair.b.has_blocked)
            to_b = (*pair.to_b, tell) if tell else pair.to_b
            found.append(pair._replace(a=a, to_b=to_b, left=pair.left - 1))
    if pair.to_a:
        a, tell = told(pair.a, pair.to_a[0])
        to_b = (*pair.to_b, tell) if tell else pair.to_b
        found.append(pair._replace(a=a, to_a=pair.to_a[1:], to_b=to_b))
    return found


def test_every_interleaving_ends_in_agreement() -> None:
    """All of them: requests that cross answers, removals and blocks, with tells in order per direction."""
    seen = {Pair()}
    todo = deque(seen)
    quiet_count = 0
    while todo:
        pair = todo.popleft()
        assert len(pair.to_a) + len(pair.to_b) <= 2 * MAX_COMMANDS  # tells do not answer tells for ever
        if not pair.to_a and not pair.to_b:
            quiet_count += 1
            assert (pair.a.state, pair.b.state) in AGREEING, pair
            if pair.a.has_blocked or pair.b.has_blocked:
                assert not pair.a.state
        for after in (*steps(pair), *(p.flip() for p in steps(pair.flip()))):
            if after not in seen:
                seen.add(after)
                todo.append(after)
    assert quiet_count > 20
    assert len(seen) > 500


def test_names_are_found_whatever_their_case_and_width() -> None:
    assert user_rules.fold("Ａnn STRASSE") == user_rules.fold("ann straße")
