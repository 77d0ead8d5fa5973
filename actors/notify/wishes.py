"""Whether a user wants to hear of a type on a channel."""

from protocol.notify_types import Channel, Preferences


def is_wanted(wishes: Preferences, type_name: str, channel: Channel) -> bool:
    """Tell whether preferences allow a type on a channel: the type's own choice beats the general one."""
    wish = wishes.types.get(type_name)
    if wish is not None:
        if channel in wish.channels:
            return wish.channels[channel]
        if wish.frequency == "off":
            return False
    if (wish is None or wish.frequency is None) and wishes.frequency == "off":
        return False
    return wishes.channels.get(channel, True)
