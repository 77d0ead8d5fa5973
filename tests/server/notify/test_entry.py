"""Where requests come in: their keys, and what they are known by."""

from pathlib import Path

from protocol.notify_content import NotifyRequest
from protocol.notify_types import TypeRule
from server.notify.entry import MAX_DIRECT
from tests.server.notify.notify_world import APP, Clock, open_notifier
from tests.server.notify.test_pipeline import HOUR_MS

LATER = "2099-01-01T00:00:00+00:00"


async def test_a_code_that_is_asked_for_again_after_it_expired_was_sent(tmp_path: Path) -> None:
    """A backend that missed the answer must not believe that nothing went, and send another code."""
    clock = Clock()
    async with open_notifier(tmp_path, clock=clock) as notifier:
        (ann,) = await notifier.world.people("ann")
        code = NotifyRequest(
            type="security",
            user_id=ann.user_id,
            text="Your code is 4711",
            expires_at_ms=clock() + 60_000,
            idempotency_key="code-1",
        )
        first = await notifier.notify(code)
        clock.pass_by(notifier, HOUR_MS)
        again = await notifier.notify(code)
        assert again.repeated
        assert again.request_id == first.request_id
        assert again.items[0].notification_id == first.items[0].notification_id
        late = NotifyRequest(
            type="security",
            user_id=ann.user_id,
            text="Your code is 4712",
            expires_at_ms=clock() - 1,
            idempotency_key="code-2",
        )
        assert await notifier.refusal(late) == "bad_field"  # it never came in time


async def test_a_key_is_looked_up_before_a_request_is_judged(tmp_path: Path) -> None:
    """A type was removed, for named users and for a group; and a key was used for something else."""
    async with open_notifier(tmp_path) as notifier:
        await notifier.core.desk.put_type(APP, TypeRule(name="t", channels=["inapp"]))
        ann, ben = await notifier.world.people("ann", "ben")
        several = NotifyRequest(
            type="t", user_ids=[ann.user_id, ben.user_id], text="x", idempotency_key="k1", send_at=LATER
        )
        group = NotifyRequest(type="t", group="*", text="y", idempotency_key="k2", send_at=LATER)
        firsts = [await notifier.notify(several), await notifier.notify(group)]
        await notifier.core.desk.remove_type(APP, "t")
        for request, first in zip((several, group), firsts, strict=True):
            again = await notifier.notify(request)
            assert (again.repeated, again.request_id) == (True, first.request_id)
            assert [item.notification_id for item in again.items] == [
                item.notification_id for item in first.items
            ]
        for fields in ({"user_ids": [ann.user_id, ben.user_id], "idempotency_key": "k1"}, {"group": "*"}):
            other = NotifyRequest(**{"type": "t", "text": "z", "idempotency_key": "k2", **fields})  # type: ignore[arg-type]
            assert await notifier.refusal(other) == "payload_conflict"
        unknown = NotifyRequest(type="t", user_id=ann.user_id, text="x", idempotency_key="k3")
        assert await notifier.refusal(unknown) == "type_not_found"


async def test_one_key_for_two_users_is_two_requests(tmp_path: Path) -> None:
    """Cancelling one user's reminder takes nothing from the other."""
    async with open_notifier(tmp_path) as notifier:
        ann, ben = await notifier.world.people("ann", "ben")

        def reminder(user_id: str) -> NotifyRequest:
            return NotifyRequest(
                type="contact", user_id=user_id, text="x", send_at=LATER, idempotency_key="order-1"
            )

        of_ann = await notifier.notify(reminder(ann.user_id))
        of_ben = await notifier.notify(reminder(ben.user_id))
        assert of_ann.request_id != of_ben.request_id
        assert (await notifier.core.entry.cancel(APP, of_ann.request_id)).cancelled == 1
        assert (await notifier.row(of_ben.items[0].notification_id)).state == "held"
        again = await notifier.notify(reminder(ben.user_id))
        assert (again.repeated, again.request_id) == (True, of_ben.request_id)


async def test_a_large_request_under_a_used_key_is_told_to_be_another(tmp_path: Path) -> None:
    """With more users than fit one answer nothing but the key tells that it came before."""
    async with open_notifier(tmp_path) as notifier:
        users = await notifier.world.crowd(MAX_DIRECT + 2)
        request = NotifyRequest(type="contact", user_ids=users[1:], text="x", idempotency_key="k")
        assert not (await notifier.notify(request)).repeated
        others = NotifyRequest(type="contact", user_ids=users[:-1], text="x", idempotency_key="k")
        assert await notifier.refusal(others) == "payload_conflict"
