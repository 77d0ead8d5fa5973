"""A hash of who is connected where, by which nodes can show that they agree."""

from hashlib import blake2b

_MODULUS = 2**64


class PresenceDigest:
    """Sum up the hashes of one node's entries: the same for the same entries, in whatever order they came.

    A sum rather than XOR, and a real hash rather than a CRC: with those, two users who swap their states
    would leave no trace.
    """

    __slots__ = ("_origin", "value")

    def __init__(self, node_id: str, boot: int) -> None:
        self._origin = f"{node_id}\0{boot}\0"
        self.value = 0

    def add(self, user_id: str, state: str) -> None:
        self.value = (self.value + self._hash(user_id, state)) % _MODULUS

    def remove(self, user_id: str, state: str) -> None:
        self.value = (self.value - self._hash(user_id, state)) % _MODULUS

    def _hash(self, user_id: str, state: str) -> int:
        entry = f"{self._origin}{user_id}\0{state}"
        return int.from_bytes(blake2b(entry.encode(), digest_size=8).digest())


def merged_digest(digests: list[PresenceDigest]) -> str:
    """Sum up the digests of several nodes, as 16 hexadecimal digits."""
    return f"{sum(digest.value for digest in digests) % _MODULUS:016x}"
