"""Types of notification that hubbub itself sends; an app's own type of the same name replaces one."""

from typing import Final

from protocol.notify_types import TypeRule

DIGEST: Final = "digest"

BUILTIN_TYPES: Final[dict[str, TypeRule]] = {
    rule.name: rule
    for rule in (
        # A conversation's messages replace each other on the device, so one is no burden beside another.
        # The same words twice are two messages: keys alone tell that one comes again.
        # And the app shows them among its conversations, with counts of their own: not in the centre as well.
        TypeRule(
            name="chat",
            title="Messages",
            priority="high",
            is_capped=False,
            dedup_s=0,
            ttl_s=86_400,
            channels=["apns", "fcm", "webpush"],
        ),
        TypeRule(name="mention", title="Mentions", priority="high", is_capped=False, ttl_s=7 * 86_400),
        TypeRule(name="contact", title="Contact requests"),
        TypeRule(name="like", title="Likes", priority="low", batch_window_s=60),
        TypeRule(name="comment", title="Comments", batch_window_s=30),
        TypeRule(name="follow", title="New followers", priority="low", batch_window_s=60),
        TypeRule(name=DIGEST, title="Digests", priority="low", channels=["apns", "fcm", "webpush", "email"]),
        TypeRule(
            name="security",
            title="Security",
            priority="high",
            is_security=True,
            is_capped=False,
            channels=["inapp", "apns", "fcm", "webpush", "email"],
        ),
    )
}
