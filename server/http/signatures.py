"""Signatures of requests: how they are made, and which were here before.

What a node has taken it remembers, and refuses without asking the store. The rest of the cluster, and the
same node after a restart, know it by a row: whoever stores the row first has taken the request.
"""

import hashlib
import hmac
from collections import OrderedDict
from typing import Final

from protocol.errors import Conflict, Refused
from protocol.records import Insert, SpentSignature
from storage.store import Store

WINDOW_S: Final = 300  # of clocks and networks; a replay within it is found by its signature
CLOCKS_S: Final = 60  # by which the clocks of nodes may differ
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


async def spend(store: Store, app_key: str, signature: str, now_ms: int) -> None:
    """Take note of a signature for good: until no node may take it for valid any more.

    A timestamp may lie a window ahead, and holds for another one behind. `now_ms`: Unix ms.
    Raises: Refused(request_replayed), on whichever node it was before; HubbubError, where the store fails.
    """
    digest = hashlib.blake2b(f"{app_key}:{signature}".encode(), digest_size=16).hexdigest()
    until_s = now_ms // 1000 + 2 * WINDOW_S + CLOCKS_S
    try:
        await store.commit([Insert(SpentSignature(digest=digest, minute=until_s // 60 + 1))])
    except Conflict:
        raise Refused("request_replayed") from None


def signature_of(secret: str, *, timestamp: str, nonce: str, method: str, path: str, body: bytes) -> str:
    """What stands in X-Hubbub-Signature. `path` with its query, as it was sent."""
    signed = "\n".join([timestamp, nonce, method.upper(), path, hashlib.sha256(body).hexdigest()])
    return f"v1={hmac.new(secret.encode(), signed.encode(), 'sha256').hexdigest()}"
