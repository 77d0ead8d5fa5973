"""Whether, and how often, a user wants to hear of a type on a channel: the one place where that is decided.

A type's own choice of channels beats the general one, channel by channel; its own frequency beats the general
one. `off` beats all choices of channels: it leaves nothing but in-app, and that only where the user said yes
to in-app in so many words.
"""

from collections.abc import Mapping

from protocol.notify_types import Channel, Frequency, Preferences


def wish_of(wishes: Preferences, type_name: str) -> tuple[Frequency, Mapping[Channel, bool]]:
    """How often a user wants to hear of a type, and what was said of channels in so many words."""
    wish = wishes.types.get(type_name)
    if wish is None:
        return wishes.frequency, wishes.channels
    chosen = {**wishes.channels, **wish.channels} if wish.channels else wishes.channels
    return wish.frequency or wishes.frequency, chosen


def lets_through(frequency: Frequency, chosen: Mapping[Channel, bool], channel: Channel) -> bool:
    """Tell whether what `wish_of` says allows a channel."""
    if frequency == "off":
        return channel == "inapp" and chosen.get("inapp", False)
    return chosen.get(channel, True)


def is_wanted(wishes: Preferences, type_name: str, channel: Channel) -> bool:
    """Tell whether preferences allow a type on a channel."""
    frequency, chosen = wish_of(wishes, type_name)
    return lets_through(frequency, chosen, channel)
