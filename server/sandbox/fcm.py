"""A fake of Firebase Cloud Messaging's HTTP v1 API: access, registrations and answers."""

import re
import secrets
from collections.abc import Callable
from typing import Final

from server.sandbox.exchange import Answer, Request, json_answer
from server.sandbox.faults import Fault, Faults
from server.sandbox.fcm_rules import FcmMessage, read_message
from server.sandbox.google_errors import (
    GoogleRefusal,
    fcm_error,
    fcm_fault,
    not_found,
    permission_denied,
    unauthenticated,
)
from server.sandbox.google_tokens import FakeGoogleTokens
from server.sandbox.ledger import Ledger, identity_in

_PATH: Final = re.compile(r"/v1/projects/([^/]+)/messages:send\Z")


class FakeFcm:
    """FCM's own port; access tokens come from another. Registrations that were never told of are good."""

    def __init__(
        self, ledger: Ledger, faults: Faults, tokens: FakeGoogleTokens, *, now_ms: Callable[[], int]
    ) -> None:
        self._ledger = ledger
        self._faults = faults
        self._tokens = tokens
        self._now_ms = now_ms
        self._projects_of: dict[str, str] = {}  # registration token: project id
        self._gone: set[str] = set()
        self.knows_only_registered = False

    def register(self, token: str, *, project_id: str = "") -> None:
        """Tell of an app's registration token; other projects get SENDER_ID_MISMATCH. Empty: any project."""
        self._gone.discard(token)
        self._projects_of[token] = project_id

    def unregister(self, token: str) -> None:
        """Let a token be dead: 404 UNREGISTERED."""
        self._projects_of.pop(token, None)
        self._gone.add(token)

    def answer(self, request: Request) -> Answer:
        try:
            return self._send(request)
        except GoogleRefusal as refusal:
            return refusal.answer

    def _send(self, request: Request) -> Answer:
        match = _PATH.match(request.path)
        if match is None or request.method != "POST":
            raise not_found()
        project_id = match[1]
        scheme, _, access_token = request.headers.get("authorization", "").partition(" ")
        granted = self._tokens.project_of(access_token) if scheme.lower() == "bearer" else ""
        if not granted:
            raise unauthenticated()
        if granted != project_id:
            raise permission_denied(project_id)
        message = read_message(request.body)
        self._check_registration(message, project_id)
        hit = self._faults.pick("fcm", message.address)
        if hit is not None and hit.fault.refuses:
            return hit.end(_refuse_by(hit.fault))
        name = f"projects/{project_id}/messages/0:{self._now_ms() * 1_000}%{secrets.token_hex(8)}"
        if message.is_dry_run:
            name = f"projects/{project_id}/messages/fake_message_id"
        else:
            self._ledger.record(
                "fcm",
                at_ms=self._now_ms(),
                address=message.address,
                id=name,
                identity=identity_in(message.message) or identity_in(message.message.get("android")),
                content={"project_id": project_id, "message": message.message},
            )
        answer = json_answer(200, {"name": name})
        return answer if hit is None else hit.end(answer)

    def _check_registration(self, message: FcmMessage, project_id: str) -> None:
        if not message.is_token:
            return
        if message.address in self._gone:
            raise GoogleRefusal(fcm_error("UNREGISTERED"))
        owner = self._projects_of.get(message.address)
        if owner is None and self.knows_only_registered:
            raise GoogleRefusal(fcm_error("INVALID_ARGUMENT"))
        if owner and owner != project_id:
            raise GoogleRefusal(fcm_error("SENDER_ID_MISMATCH"))


def _refuse_by(fault: Fault) -> Answer:
    return fcm_fault(fault.status, fault.code, fault.retry_after()) if fault.status else Answer()
