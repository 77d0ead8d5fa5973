"""Opt-outs always find room, however many a user has made before."""

from actors.notify.opt_outs import with_opt_out
from actors.notify.wishes import is_wanted
from protocol.notify_types import MAX_WISHES, Preferences, TypePreference

OFF = TypePreference(frequency="off")
ON = TypePreference(channels={"email": True})


def test_an_opt_out_keeps_what_else_was_chosen_for_the_type() -> None:
    """A link in a mail is about mail."""
    wishes = Preferences(types={"t": TypePreference(channels={"sms": False}, frequency="daily")})
    wishes = with_opt_out(wishes, "t", "email", {"t"})
    assert wishes.types["t"] == TypePreference(channels={"sms": False, "email": False}, frequency="daily")
    assert with_opt_out(wishes, "t", "email", {"t"}) == wishes


def test_beyond_the_bound_wishes_about_types_that_are_gone_give_way() -> None:
    """What the user does not want of types that are there is never forgotten."""
    known = {f"known{number}" for number in range(MAX_WISHES - 3)}
    types = {"gone_off": OFF, "gone_off2": OFF, "gone_on": ON, **dict.fromkeys(sorted(known), OFF)}
    wishes = with_opt_out(Preferences(types=types), "new", "email", known)
    assert len(wishes.types) == MAX_WISHES
    assert types.keys() - wishes.types.keys() == {"gone_on"}
    assert not is_wanted(wishes, "new", "email")
    wishes = with_opt_out(wishes, "newer", "email", known)
    assert "gone_off" not in wishes.types
    assert known < wishes.types.keys()
