"""Signatures of requests: how they are made, and which were here before."""

import hashlib
import hmac
from collections import OrderedDict
from typing import Final

WINDOW_S: Final = 300  # of clocks and networks; a replay within it is found by its signature
MAX_SEEN: Final = 1_000_000  # signatures of ten minutes: 1,600 requests a second; the oldest gives way


class SeenSignatures:
    """Signatures that this node has taken, as long as they are valid."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, float] = OrderedDict()  # -> when it may be forgotten

    def is_new(self, signature: str, now: float) -> bool:
        """Take note of a signature; False: it was here before. `now`: trio.current_time()."""
        while self._seen:
            first = next(iter(self._seen))
            if self._seen[first] > now and len(self._seen) < MAX_SEEN:
                break
            del self._seen[first]
        if signature in self._seen:
            return False
        self._seen[signature] = now + 2 * WINDOW_S
        return True


def signature_of(secret: str, *, timestamp: str, nonce: str, method: str, path: str, body: bytes) -> str:
    """What stands in X-Hubbub-Signature. `path` with its query, as it was sent."""
    signed = "\n".join([timestamp, nonce, method.upper(), path, hashlib.sha256(body).hexdigest()])
    return f"v1={hmac.new(secret.encode(), signed.encode(), 'sha256').hexdigest()}"
