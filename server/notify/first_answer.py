"""What a request did the first time, for one that comes again with its key and would not be taken any more.

Who got no answer asks again, and by then a one-time code may have expired, or a type be gone. The first time
it was taken, so that is the answer: "refused" would make the caller send another code.
"""

from collections.abc import Sequence
from typing import Final

from actors.notify.address import partition_of
from actors.notify.keeper import ledger_body
from protocol.errors import Refused
from protocol.notify_records import RequestRow
from protocol.notify_replies import Notified, NotifyAccepted
from storage.store import Store

MAX_ROWS: Final = 1_000  # more than a request to named users has


async def of_users(
    store: Store, app_id: str, request_id: str, user_ids: Sequence[str], digest: str
) -> NotifyAccepted | None:
    """What the request of that id, which tells its key and users, did for each of them; None: it never came.

    Raises: Refused(payload_conflict), where the key was used for something else; HubbubError.
    """
    await store.barrier()
    items: dict[str, Notified] = {}
    for partition in {partition_of(user_id) for user_id in user_ids}:
        rows = await store.notify.of_request(app_id, request_id, partition, after=0, limit=MAX_ROWS)
        for entry in await store.notify.ledgers(partition, [row.notification_id for row in rows]):
            body = ledger_body(entry.body) if entry.body != "{}" else None
            if body is not None and body.digest and body.digest != digest:
                raise _conflict()
        for row in rows:
            items[row.user_id] = Notified(
                user_id=row.user_id,
                notification_id=row.notification_id,
                state=row.state,
                due_at_ms=row.due_at_ms if row.state == "held" else 0,
                repeated=True,
            )
    if not items:
        return None
    told = [items.get(user_id) or _not_there(user_id) for user_id in user_ids]
    return NotifyAccepted(request_id=request_id, items=told, repeated=True)


async def of_larger(store: Store, app_id: str, request_id: str, digest: str) -> NotifyAccepted | None:
    """What became of the larger request of that id; None: it never came. Raises: as of_users."""
    row = await store.get(RequestRow, request_id)
    if row is None or row.app_id != app_id:
        return None
    if row.digest != digest:
        raise _conflict()
    return NotifyAccepted(request_id=request_id, state=row.state, repeated=True)


def _conflict() -> Refused:
    return Refused("payload_conflict", "That idempotency key was used before for something else.")


def _not_there(user_id: str) -> Notified:
    return Notified(
        user_id=user_id, notification_id=0, state="refused", reason="user_not_found", repeated=True
    )
