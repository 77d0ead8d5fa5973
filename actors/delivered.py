"""How far users have got: watermarks that devices told, on their way to the conversations.

A conversation that is awake takes them itself. One that sleeps must not be woken (after a restart that would
be all of them at once): its watermarks wait here until the service stores them.
"""

from collections.abc import Callable

from actors.address import Address
from actors.messages import Delivered
from actors.router import Router


class DeliveredWatermarks:
    """Watermarks are maxima: of each user and conversation the highest one is enough."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.router: Router  # set before the first tick
        self._wake = wake
        self._told: dict[str, dict[str, int]] = {}
        self._asleep: dict[str, dict[str, int]] = {}  # for conversations that sleep, or have no room

    def note(self, conversation_id: str, user_id: str, seq: int) -> None:
        """A device of the user holds the conversation up to here; told with the next tick."""
        waiting = self._told.setdefault(conversation_id, {})
        if seq > waiting.get(user_id, 0):
            waiting[user_id] = seq
            self._wake()

    def tick(self) -> None:
        """Tell the conversations that are awake, wherever they are."""
        waiting, self._told = self._told, {}
        for conversation_id, seqs in waiting.items():
            self.tell(conversation_id, seqs)

    def tell(self, conversation_id: str, seqs: dict[str, int]) -> None:
        """Tell a conversation if it is awake, else keep it to be stored."""
        if not self.router.tell_if_active(Address("conversation", conversation_id), Delivered(seqs)):
            self.put_back(conversation_id, seqs)

    def take(self) -> dict[str, dict[str, int]]:
        """What no actor has taken: conversation_id -> user_id -> seq. The caller stores it."""
        taken, self._asleep = self._asleep, {}
        return taken

    def put_back(self, conversation_id: str, seqs: dict[str, int]) -> None:
        """Keep what could not be stored."""
        waiting = self._asleep.setdefault(conversation_id, {})
        for user_id, seq in seqs.items():
            waiting[user_id] = max(seq, waiting.get(user_id, 0))
