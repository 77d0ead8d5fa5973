"""The pause that an app's webhook has asked for, by Retry-After: it alone is left alone. Pure."""

import msgspec

from protocol.notify_types import AppRules


class Pause(msgspec.Struct, frozen=True):
    """Until when (Unix ms), and which webhook and mail address the app's rules named by then."""

    until_ms: int
    webhook: str
    email: str

    def holds(self, rules: AppRules, now_ms: int) -> bool:
        """Tell whether the webhook of these rules is to be left alone: another one has not asked for that."""
        return now_ms < self.until_ms and rules.alert_webhook == self.webhook
