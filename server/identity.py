"""Whom a token stands for: what the gateways and the HTTP API know of who is speaking."""

from typing import Literal

import msgspec

from protocol.records import User


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who somebody has proved to be, by which log-in, and until when (Unix ms; 0: until it is revoked).

    `session_id` is the log-in, so that revoking it finds its connections; for a JWT it is made of the token.
    `app_key` is the key that a JWT was signed with, or that an app's backend acts by.
    """

    user: User
    app_id: str
    session_id: str
    expires_at_ms: int = 0
    kind: Literal["session", "bot", "jwt", "app_key"] = "session"
    app_key: str = ""

    @property
    def user_id(self) -> str:
        return self.user.user_id
