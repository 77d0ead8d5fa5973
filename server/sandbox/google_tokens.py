"""A fake of Google's OAuth 2 token endpoint: JWT-bearer grants (RFC 7523) of service accounts."""

import secrets
from collections.abc import Callable
from typing import Final

import jwt
import msgspec

from server.sandbox.exchange import Answer, Request, form_of, json_answer
from server.sandbox.faults import Fault, Faults
from server.sandbox.webpush_rules import is_number

SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
_SCOPES: Final = frozenset({SCOPE, "https://www.googleapis.com/auth/cloud-platform"})
GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
LIFETIME_S: Final = 3_600
_SKEW_S: Final = 300  # Google's tolerance for other clocks
_MAX_TOKENS: Final = 10_000
TOKEN_PATH: Final = "/token"


class _Grant(msgspec.Struct, frozen=True):
    project_id: str
    ends_at_s: float


class _Account(msgspec.Struct, frozen=True):
    project_id: str
    public_key_pem: str


class FakeGoogleTokens:
    """Gives access tokens to service accounts, and tells FCM whose they are."""

    def __init__(self, faults: Faults, *, now_ms: Callable[[], int]) -> None:
        self._faults = faults
        self._now_ms = now_ms
        self._accounts: dict[str, _Account] = {}
        self._grants: dict[str, _Grant] = {}
        self.audiences: set[str] = set()  # what `aud` may be: this endpoint's address
        self.granted_count = 0

    def add_account(self, client_email: str, project_id: str, public_key_pem: str) -> None:
        """Let a service account ask for tokens."""
        self._accounts[client_email] = _Account(project_id, public_key_pem)

    def revoke_tokens(self) -> None:
        """End all access tokens: FCM answers 401 until senders ask for new ones."""
        self._grants.clear()

    def project_of(self, access_token: str) -> str:
        """Tell which project a token is good for; empty if it is none, or has expired."""
        grant = self._grants.get(access_token)
        return grant.project_id if grant and grant.ends_at_s > self._now_ms() / 1_000 else ""

    def answer(self, request: Request) -> Answer:
        """Check a grant as Google does, and give a token for an hour."""
        if request.method != "POST":
            return _refuse("invalid_request", "Only POST is supported.", status=405)
        form = form_of(request)
        if form.get("grant_type") != GRANT_TYPE:
            return _refuse("unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type', '')}")
        account = self._verify(form.get("assertion", ""))
        if isinstance(account, Answer):
            return account
        hit = self._faults.pick("token", account.project_id)
        if hit is not None and hit.fault.refuses:
            return hit.end(_refuse_by(hit.fault))
        token = "ya29." + secrets.token_urlsafe(48)
        while len(self._grants) >= _MAX_TOKENS:
            del self._grants[next(iter(self._grants))]
        self._grants[token] = _Grant(account.project_id, self._now_ms() / 1_000 + LIFETIME_S)
        self.granted_count += 1
        answer = json_answer(200, {"access_token": token, "expires_in": LIFETIME_S, "token_type": "Bearer"})
        return answer if hit is None else hit.end(answer)

    def _verify(self, assertion: str) -> _Account | Answer:
        try:
            claims = jwt.decode(assertion, options={"verify_signature": False})
            account = self._accounts.get(str(claims.get("iss", "")))
            if account is None:
                return _refuse("invalid_grant", "Invalid grant: account not found")
            jwt.decode(
                assertion,
                account.public_key_pem,
                algorithms=["RS256"],
                options={"verify_aud": False, "verify_exp": False, "verify_iat": False},
            )
        except jwt.InvalidSignatureError:
            return _refuse("invalid_grant", "Invalid JWT Signature.")
        except jwt.PyJWTError:
            return _refuse("invalid_grant", "Invalid JWT: Failed to decode or unsupported algorithm.")
        if claims.get("aud") not in self.audiences:
            return _refuse(
                "invalid_grant", "Invalid JWT: Failed audience check. The right audience is the token URI."
            )
        issued_s, ends_s = claims.get("iat"), claims.get("exp")
        now_s = self._now_ms() / 1_000
        if (
            not is_number(issued_s)
            or not is_number(ends_s)
            or not issued_s - _SKEW_S <= now_s <= ends_s + _SKEW_S
            or ends_s - issued_s > LIFETIME_S
        ):
            return _refuse(
                "invalid_grant",
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
                "Check your iat and exp values in the JWT claim.",
            )
        scopes = set(str(claims.get("scope", "")).split())
        if not scopes & _SCOPES:
            return _refuse("invalid_scope", "Invalid OAuth scope or ID token audience provided.")
        return account


def _refuse_by(fault: Fault) -> Answer:
    if not fault.status:
        return Answer()
    answer = _refuse(fault.code or "internal_failure", "Injected by the sandbox.", status=fault.status)
    answer.headers += fault.retry_after()
    return answer


def _refuse(error: str, description: str, *, status: int = 400) -> Answer:
    return json_answer(status, {"error": error, "error_description": description})
