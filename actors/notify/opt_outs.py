"""A user's no to a type on a channel always finds room among the wishes."""

from collections.abc import Container

import msgspec

from protocol.notify_types import MAX_WISHES, Channel, Preferences, TypePreference


def with_opt_out(
    wishes: Preferences, type_name: str, channel: Channel, known_types: Container[str]
) -> Preferences:
    """Add that a user does not want a type on a channel; there is always room for that.

    Where it is the last straw, wishes about types that the app does not have any more give way, the oldest
    first, and those that are no opt-outs before those that are.
    """
    wish = wishes.types.get(type_name, TypePreference())
    wish = msgspec.structs.replace(wish, channels={**wish.channels, channel: False})
    types = {**wishes.types, type_name: wish}
    if len(types) > MAX_WISHES:
        others = [name for name in types if name != type_name]
        # Never about one that exists before one that does not, whatever MAX_WISHES is.
        others.sort(key=lambda name: (name in known_types, _is_opt_out(types[name])))
        for name in others[: len(types) - MAX_WISHES]:
            del types[name]
    return msgspec.structs.replace(wishes, types=types)


def _is_opt_out(wish: TypePreference) -> bool:
    return wish.frequency == "off" or not all(wish.channels.values())
