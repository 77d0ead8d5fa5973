"""What devices tell of how far they are, from the heartbeat or ack that says it until it is stored.

A device's own cursor is where it goes on after it lost its memory; what its user holds on any device is the
delivered watermark of a conversation, which is the hub's to hand on and stored here where its actor sleeps.
The service has both written once a second. A crash before that costs a second of replay; what a failing store
did not take is kept for the next time.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeVar

import msgspec
import structlog

from actors.address import Address
from actors.hub import Hub
from actors.messages import Delivered
from actors.ports import Fanout
from actors.router import Router
from protocol import events
from protocol.codec import Encoded
from protocol.errors import Unavailable
from protocol.records import (
    Advance,
    Device,
    DeviceCursor,
    Put,
    conversation_stream,
    inbox_stream,
)
from protocol.types import ReceiptItem
from storage.store import Store

MAX_WAITING_CURSORS: Final = 5_000  # of one user; what is beyond is told again by the next heartbeat
_MAX_WAITING_DEVICES: Final = 50_000
_FLUSH_CHUNK: Final = 1_000

log = structlog.get_logger(__name__)

T = TypeVar("T")


class DeviceCursors:
    """Note what devices tell (`seen`, `note`), and store it (`flush`)."""

    def __init__(self, *, store: Store, hub: Hub, router: Router, fanout: Fanout) -> None:
        self._store = store
        self._hub = hub
        self._router = router
        self._fanout = fanout
        self._cursors: dict[str, dict[tuple[str, str], int]] = {}  # user_id -> (device_id, stream) -> seq
        self._devices: dict[tuple[str, str], Device] = {}

    def seen(self, device: Device) -> None:
        """Note that a device has connected."""
        self._devices[device.user_id, device.device_id] = device

    def note(
        self, user_id: str, device_id: str, conn_id: int, cursors: dict[str, int], inbox_cursor: int
    ) -> None:
        """Note what a device says it holds: conversation_id -> seq, and of its inbox (0: nothing said)."""
        self._hub.delivered(user_id, cursors, conn_id)
        waiting = self._cursors.setdefault(user_id, {})
        for conversation_id, seq in cursors.items():
            if self._hub.is_member(conn_id, conversation_id):
                _raise_cursor(waiting, (device_id, conversation_stream(conversation_id)), seq)
        if inbox_cursor:
            _raise_cursor(waiting, (device_id, inbox_stream(user_id)), inbox_cursor)

    async def flush(self) -> None:
        """Write what devices have told; a failure leaves it for the next time."""
        await self._store_devices()
        await self._store_delivered()

    async def _store_devices(self) -> None:
        devices, self._devices = self._devices, {}
        told, self._cursors = self._cursors, {}
        cursors = [
            DeviceCursor(user_id=user_id, device_id=device_id, stream=stream, seq=seq)
            for user_id, waiting in told.items()
            for (device_id, stream), seq in waiting.items()
        ]
        try:
            for puts in _chunks(list(devices.values())):
                await self._store.commit([Put(device) for device in puts])
            for part in _chunks(cursors):
                if risen := await self._risen(part):
                    await self._store.commit([Put(cursor) for cursor in risen])
        except Unavailable as error:
            log.warning("cursors_not_stored", code=error.code, count=len(devices) + len(cursors))
            for user_id, waiting in told.items():
                newer = self._cursors.setdefault(user_id, {})
                for key, seq in waiting.items():
                    _raise_cursor(newer, key, seq)
            if len(self._devices) + len(devices) <= _MAX_WAITING_DEVICES:
                self._devices = devices | self._devices

    async def _risen(self, told: Sequence[DeviceCursor]) -> list[DeviceCursor]:
        """Those of the cursors that are above what is stored, none beyond the head of its stream.

        A device may have gone on at another node, which has stored more than it had told here. Where that
        node writes between this read and our write, the cursor still goes back: a device that lost its memory
        is then sent some events again. Devices are read one by one, not by user: a user may have had many.
        """
        heads = await self._heads_for((cursor.stream, cursor.seq) for cursor in told)
        stored = {
            device: await self._store.device_cursors(*device)
            for device in dict.fromkeys((cursor.user_id, cursor.device_id) for cursor in told)
        }
        bound = [
            msgspec.structs.replace(cursor, seq=min(cursor.seq, heads[cursor.stream])) for cursor in told
        ]
        return [c for c in bound if c.seq > stored[c.user_id, c.device_id].get(c.stream, 0)]

    async def _store_delivered(self) -> None:
        """Store how far users have got in conversations whose actor sleeps, without waking it."""
        waiting = self._hub.watermarks.take()
        told = [(c, user_id, seq) for c, seqs in waiting.items() for user_id, seq in seqs.items()]
        done = 0
        try:
            for part in _chunks(told):
                heads = await self._heads_for((conversation_stream(c), seq) for c, _, seq in part)
                stored: dict[str, dict[str, int]] = {}
                for conversation_id, user_id, seq in part:
                    if held := min(seq, heads[conversation_stream(conversation_id)]):
                        stored.setdefault(conversation_id, {})[user_id] = held
                await self._store.commit(
                    [
                        Advance(conversation_id=conversation_id, user_id=user_id, delivered_seq=seq)
                        for conversation_id, seqs in stored.items()
                        for user_id, seq in seqs.items()
                    ]
                )
                done += len(part)
                for conversation_id, seqs in stored.items():
                    self._tell_delivered(conversation_id, seqs)
        except Unavailable as error:
            log.warning("delivered_not_stored", code=error.code, count=len(told) - done)
        finally:
            for conversation_id, user_id, seq in told[done:]:
                self._hub.watermarks.put_back(conversation_id, {user_id: seq})

    def _tell_delivered(self, conversation_id: str, seqs: dict[str, int]) -> None:
        """Tell of watermarks that were stored: the actor, if it woke meanwhile, or else those who look."""
        if self._router.tell_if_active(Address("conversation", conversation_id), Delivered(seqs)):
            return
        items = [ReceiptItem(user_id=user_id, delivered_seq=seq) for user_id, seq in seqs.items()]
        encoded = Encoded(events.Receipts(conversation_id=conversation_id, items=items))
        # A key of its own: it must not take the place of what the actor tells of other members.
        key = ("receipts", conversation_id, *seqs)
        self._fanout.publish_live(conversation_id, key, encoded, to=None, is_state=True)

    async def _heads_for(self, told: Iterable[tuple[str, int]]) -> dict[str, int]:
        """A bound for what devices claim to hold of each stream: at most its head, for it only grows.

        Where all claims are below what this node has published itself, nothing is read.
        """
        heads: dict[str, int] = {}
        unknown: set[str] = set()
        for stream, seq in told:
            kind, _, owner_id = stream.partition(":")
            head = self._hub.head_of(owner_id) if kind == "c" else self._hub.inbox_head_of(owner_id)
            heads[stream] = head
            if seq > head:
                unknown.add(stream)
        if unknown:
            read = await self._store.heads(list(unknown))
            for stream in unknown:
                heads[stream] = read.get(stream, 0)
        return heads


def _raise_cursor(waiting: dict[tuple[str, str], int], key: tuple[str, str], seq: int) -> None:
    known = waiting.get(key)
    if known is None:
        if seq > 0 and len(waiting) < MAX_WAITING_CURSORS:
            waiting[key] = seq
    elif seq > known:
        waiting[key] = seq


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _FLUSH_CHUNK):
        yield items[start : start + _FLUSH_CHUNK]
