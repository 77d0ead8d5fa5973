"""APNs provider tokens: which JWTs are good, how old they may be, and how often they may change."""

from collections import deque
from typing import Final

import jwt
import msgspec

MAX_AGE_S: Final = 3_600
MAX_AHEAD_S: Final = 60  # a clock that runs ahead of ours
UPDATE_WINDOW_S: Final = 1_200  # Apple: refresh no more than once every 20 minutes, at least every 60
UPDATES_IN_WINDOW: Final = 1
_MAX_KNOWN: Final = 1_000


class _Known(msgspec.Struct, frozen=True):
    team_id: str
    issued_at_s: float


class _Bad(Exception):
    """The token is refused; the argument is the reason in Apple's words."""


class ProviderTokens:
    """Keys of teams, and the tokens that were seen. A token is verified once; then it is looked up.

    The first token of a key is no update. Each other one is, and a second within 20 minutes is refused for
    as long as that window lasts; known tokens stay good meanwhile, as several senders may share one key.
    """

    def __init__(self, *, updates_in_window: int = UPDATES_IN_WINDOW) -> None:
        self._updates_in_window = updates_in_window
        self._keys: dict[str, tuple[str, str]] = {}  # key id: (team id, public key in PEM)
        self._known: dict[str, _Known] = {}
        self._updates: dict[str, deque[float]] = {}  # of a key, when: the first token's too

    def add_key(self, key_id: str, team_id: str, public_key_pem: str) -> None:
        """Let a team's key sign."""
        self._keys[key_id] = (team_id, public_key_pem)

    def revoke_key(self, key_id: str) -> None:
        """Let a key sign no more; its tokens end with it."""
        self._keys.pop(key_id, None)
        self._known.clear()

    def check(self, authorization: str | None, now_s: float) -> tuple[str, str]:
        """Judge an `authorization` header; returns (team id, ""), or ("", Apple's reason for the refusal)."""
        if not authorization:
            return "", "MissingProviderToken"
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return "", "MissingProviderToken"
        known = self._known.get(token)
        try:
            if known is None:
                known = self._learn(token, now_s)
            _check_age(known.issued_at_s, now_s)
        except _Bad as bad:
            return "", str(bad)
        return known.team_id, ""

    def _learn(self, token: str, now_s: float) -> _Known:
        key_id, known = self._verify(token)
        _check_age(known.issued_at_s, now_s)
        updates = self._updates.setdefault(key_id, deque())
        recent = sum(1 for at_s in list(updates)[1:] if at_s > now_s - UPDATE_WINDOW_S)
        if updates and recent >= self._updates_in_window:
            raise _Bad("TooManyProviderTokenUpdates")
        updates.append(now_s)
        while len(updates) > self._updates_in_window + 2:
            del updates[1]
        while len(self._known) >= _MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[token] = known
        return known

    def _verify(self, token: str) -> tuple[str, _Known]:
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
            if not isinstance(key_id, str) or key_id not in self._keys:
                raise _Bad("InvalidProviderToken")
            team_id, public_key_pem = self._keys[key_id]
            claims = jwt.decode(
                token,
                public_key_pem,
                algorithms=["ES256"],
                options={"require": ["iss", "iat"], "verify_iat": False, "verify_aud": False},
            )
        except jwt.PyJWTError:
            raise _Bad("InvalidProviderToken") from None
        if claims["iss"] != team_id or type(claims["iat"]) not in {int, float}:
            raise _Bad("InvalidProviderToken")
        return key_id, _Known(team_id, float(claims["iat"]))


def _check_age(issued_at_s: float, now_s: float) -> None:
    if issued_at_s < now_s - MAX_AGE_S:
        raise _Bad("ExpiredProviderToken")
    if issued_at_s > now_s + MAX_AHEAD_S:
        raise _Bad("InvalidProviderToken")
