"""Cancelling a request, of whatever size, wherever its notifications are by then."""

from pathlib import Path

import pytest
import trio

import hubbub
from actors.notify import cancel_finder, open_room
from actors.notify.cancel_finder import Cancel
from actors.notify.messages import CancelPart
from protocol import notify_commands, notify_replies
from protocol.errors import HubbubError
from protocol.notify_content import NotifyRequest
from protocol.notify_records import DeadDelivery, RequestRow
from protocol.notify_replies import NotifyAccepted, RequestCancelled
from protocol.notify_types import TypePreference, TypeRule
from protocol.records import Put
from server.sandbox.faults import Fault
from server.sandbox.sandbox import Sandbox, open_sandbox
from storage.notify_reads import SqliteNotifyReads
from tests.server.http_world import code_of, open_api
from tests.server.notify.notify_world import APP, Clock, Notifier, open_notifier
from tests.server.notify.test_http_notify import backend_of
from tests.server.notify.test_interleavings import open_scene
from tests.server.notify.test_pipeline import HOUR_MS, bodies, open_at, person

ONE = {"channels": ["apns"], "dedup_s": 0, "is_capped": False}


async def cancelled(notifier: Notifier, done: NotifyAccepted) -> tuple[int, int, int, int]:
    """Cancel it, and tell the counts: cancelled, partly, under_way, kept."""
    found = await notifier.core.entry.cancel(APP, done.request_id)
    assert (found.request_id, found.state) == (done.request_id, "cancelled")
    return counts(found)


def counts(found: RequestCancelled) -> tuple[int, int, int, int]:
    return found.cancelled, found.partly, found.under_way, found.kept


async def one_type(notifier: Notifier, name: str = "t", **rule: object) -> None:
    await notifier.core.desk.remove_provider(APP, "apns_development")
    await notifier.core.desk.put_type(APP, TypeRule(name=name, **{**ONE, **rule}))  # type: ignore[arg-type]


async def test_a_scheduled_group_is_cancelled_after_it_was_handed_on(tmp_path: Path) -> None:
    """Local times come first in the east: from then on each user's own partition waits."""
    clock = Clock()
    async with open_at(tmp_path, clock) as (sandbox, notifier):
        await one_type(notifier)
        ann = await person(notifier, "ann", 1)
        done = await notifier.notify(
            NotifyRequest(type="t", group="*", text="x", send_at="2000-01-01T00:00:00+00:00")
        )
        await notifier.until_stat("accepted", 1)
        later = await notifier.notify(
            NotifyRequest(type="t", user_ids=[ann.user_id], text="y", send_at="2050-01-01T00:00:00")
        )
        assert await cancelled(notifier, done) == (0, 0, 0, 1)
        assert await cancelled(notifier, later) == (1, 0, 0, 0)
        row = await notifier.row(later.items[0].notification_id)
        assert (row.state, row.content) == ("cancelled", "")
        assert ("cancel", "cancelled", "request") in await notifier.rules(row.notification_id)
        stored = await notifier.world.store.get(RequestRow, done.request_id)
        assert stored is not None
        assert (stored.state, stored.kept_count) == ("cancelled", 1)
        clock.pass_by(notifier, 40 * 365 * 24 * HOUR_MS)
        again = await notifier.notify(NotifyRequest(type="t", user_id=ann.user_id, text="z"))
        await notifier.settled(again.items[0].notification_id)
        assert sandbox.count("apns") == 2


async def test_a_waiting_and_a_recurring_request_are_not_run_any_more(tmp_path: Path) -> None:
    """And what an earlier run has left held is cancelled with it."""
    clock = Clock()
    async with open_at(tmp_path, clock) as (sandbox, notifier):
        await one_type(notifier)
        await person(notifier, "ann", 1)
        waiting = await notifier.notify(
            NotifyRequest(type="t", group="*", text="x", send_at="2099-01-01T00:00:00+00:00")
        )
        recurring = await notifier.notify(NotifyRequest(type="t", group="*", text="y", cron="* * * * *"))
        clock.ahead_ms += 61_000
        await notifier.wake_app()
        await sandbox.wait_for("apns", 1)
        assert await cancelled(notifier, waiting) == (0, 0, 0, 0)
        found = await cancelled(notifier, recurring)
        assert found[0] == 0
        clock.ahead_ms += 100 * 365 * 24 * HOUR_MS
        await notifier.wake_app()
        await notifier.world.store.barrier()
        rows = await notifier.world.store.find(RequestRow, {"app_id": APP})
        assert {row.state for row in rows} == {"cancelled"}
        assert sandbox.count("apns") == 1


async def test_what_waits_in_memory_and_in_the_store_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A campaign with a mistake in it is stopped, however much of it is queued."""
    monkeypatch.setattr(open_room, "MAX_OPEN", 4)
    monkeypatch.setattr(open_room, "MIN_OF_LINE", 2)
    monkeypatch.setattr("actors.notify.cancel_finder.PAGE", 7)
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        await one_type(notifier)
        await notifier.core.desk.pause_provider(APP, "apns", is_paused=True)
        ann = await notifier.world.person("ann")
        await notifier.has_apns(ann, 1)
        ann.disconnect()
        users = await notifier.world.crowd(200)
        await notifier.have_apns(users)
        done = await notifier.notify(NotifyRequest(type="t", user_ids=users, text="a mistake"))
        other = await notifier.notify(NotifyRequest(type="t", user_id=ann.user_id, text="right"))
        assert await cancelled(notifier, done) == (200, 0, 0, 0)
        assert await cancelled(notifier, done) == (200, 0, 0, 0)  # asked again it tells the same
        for item in done.items:
            (delivery,) = await notifier.world.store.notify.deliveries(item.notification_id)
            assert (delivery.state, delivery.is_open, delivery.outgoing) == ("cancelled", False, "")
        await notifier.core.desk.pause_provider(APP, "apns", is_paused=False)
        await sandbox.wait_for("apns", 1)
        await notifier.settled(other.items[0].notification_id)
        assert bodies(sandbox) == ["right"]
        assert notifier.stats.cancelled == 200


async def test_what_is_with_a_provider_is_told_and_not_tried_again(tmp_path: Path) -> None:
    """An answer that says “cancelled” of what rings a second later would be a lie."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        await one_type(notifier)
        ann = await notifier.world.person("ann")
        await notifier.has_apns(ann, 1)
        ann.disconnect()
        asked = await sandbox_hold(sandbox, notifier, ann.user_id)
        assert await cancelled(notifier, asked) == (0, 0, 1, 0)
        sandbox.release()
        row = await notifier.settled(asked.items[0].notification_id)
        assert row.state == "cancelled"
        assert sandbox.count("apns") == 0
        assert notifier.stats.retried == 0
        assert await cancelled(notifier, asked) == (1, 0, 0, 0)
        ledger = await notifier.rules(row.notification_id)
        assert ("cancel", "pass", "under_way") in ledger


async def sandbox_hold(sandbox: Sandbox, notifier: Notifier, user_id: str) -> NotifyAccepted:
    """A request whose attempt is on its way until a release, and fails then: it would be tried again."""
    sandbox.inject(Fault(channel="apns", status=503, holds=True, times=1))
    done = await notifier.notify(NotifyRequest(type="t", user_id=user_id, text="x"))
    await sandbox.wait_held("apns")
    return done


async def test_a_cancelled_attempt_is_not_tried_again_after_a_crash(tmp_path: Path) -> None:
    """Its outcome is unknown then, and a type that may double would send it once more."""
    async with open_sandbox() as sandbox:
        async with open_notifier(tmp_path, sandbox) as notifier:
            await one_type(notifier, may_double=True)
            ann = await notifier.world.person("ann")
            await notifier.has_apns(ann, 1)
            ann.disconnect()
            sandbox.inject(Fault(channel="apns", holds=True, times=1))
            done = await notifier.notify(NotifyRequest(type="t", user_id=ann.user_id, text="x"))
            await sandbox.wait_held("apns")
            assert await cancelled(notifier, done) == (0, 0, 1, 0)
            notifier.world.flaky.unplug_after(0)  # the node dies before there is an answer
            notifier.world.flaky.let_go()
            sandbox.release()
        async with open_notifier(tmp_path, sandbox, is_new=False) as notifier:
            row = await notifier.settled(done.items[0].notification_id)
            (delivery,) = await notifier.world.store.notify.deliveries(row.notification_id)
            assert (delivery.state, delivery.is_open) == ("unknown", False)
            assert notifier.stats.retried == 0


async def test_members_leave_a_batch_and_it_goes_on_for_the_others(tmp_path: Path) -> None:
    """One taken-back like does not take the others with it, nor is it told of."""
    clock = Clock()
    async with open_at(tmp_path, clock) as (sandbox, notifier):
        await one_type(notifier, batch_window_s=60)
        ann = await person(notifier, "ann", 1)
        asked = [
            await notifier.notify(
                NotifyRequest(type="t", user_id=ann.user_id, text=f"by {name}", subject="s", actor=name)
            )
            for name in ("Ben", "Cid", "Dan")
        ]
        assert [done.items[0].state for done in asked] == ["held", "merged", "merged"]
        assert await cancelled(notifier, asked[2]) == (1, 0, 0, 0)
        assert await cancelled(notifier, asked[0]) == (1, 0, 0, 0)
        clock.pass_by(notifier, 61_000)
        await notifier.until_stat("accepted", 1)
        assert bodies(sandbox) == ["by Cid"]
        assert await cancelled(notifier, asked[1]) == (0, 0, 0, 1)


async def test_a_digest_does_not_tell_of_what_was_cancelled(tmp_path: Path) -> None:
    """And nothing comes of one that is empty then."""
    clock = Clock()
    async with open_at(tmp_path, clock) as (sandbox, notifier):
        await one_type(notifier)
        ann = await person(notifier, "ann", 1, types={"t": TypePreference(frequency="daily")})
        asked = [
            await notifier.notify(NotifyRequest(type="t", user_id=ann.user_id, title=title, text="x"))
            for title in ("Wrong", "Right")
        ]
        assert await cancelled(notifier, asked[0]) == (1, 0, 0, 0)
        clock.pass_by(notifier, 25 * HOUR_MS)
        await sandbox.wait_for("apns", 1)
        assert "Wrong" not in str(sandbox.deliveries("apns"))


async def test_the_same_content_is_no_duplicate_of_what_was_cancelled(tmp_path: Path) -> None:
    """Cancel, and send it right: the second one must not be dropped."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        await one_type(notifier, dedup_s=86_400)
        ann = await notifier.world.person("ann")
        await notifier.has_apns(ann, 1)
        ann.disconnect()
        request = NotifyRequest(type="t", user_id=ann.user_id, text="x", send_at="2099-01-01T00:00:00")
        assert await cancelled(notifier, await notifier.notify(request)) == (1, 0, 0, 0)
        assert (await notifier.notify(request)).items[0].state == "held"


async def test_what_was_shown_in_the_app_is_cancelled_in_part(tmp_path: Path) -> None:
    """It stays in the centre, as it was seen perhaps; the push is not sent."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        await one_type(notifier, channels=["inapp", "apns"])
        ann = await notifier.world.person("ann")
        await notifier.has_apns(ann, 1)
        done = await notifier.notify(NotifyRequest(type="t", user_id=ann.user_id, text="x"))
        assert done.items[0].state == "open"  # the push waits for whether it is seen
        assert await cancelled(notifier, done) == (0, 1, 0, 0)
        assert await cancelled(notifier, done) == (0, 1, 0, 0)
        page = await ann.do(notify_commands.ListNotifications())
        assert isinstance(page, notify_replies.NotificationPage)
        assert [item.text for item in page.items] == ["x"]
        assert sandbox.count("apns") == 0


async def test_dead_letters_of_a_cancelled_request_are_not_redriven(tmp_path: Path) -> None:
    """Whoever redrives all of a code a week later does not send a campaign that was taken back."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        await one_type(notifier)
        ann = await notifier.world.person("ann")
        await notifier.has_apns(ann, 1)
        ann.disconnect()
        sandbox.inject(Fault(channel="apns", status=400, code="PayloadEmpty", times=1))
        done = await notifier.notify(NotifyRequest(type="t", user_id=ann.user_id, text="x"))
        await notifier.until_stat("dead", 1)
        assert await cancelled(notifier, done) == (0, 0, 0, 1)
        assert await notifier.world.store.find(DeadDelivery, {"app_id": APP}) == []


async def test_only_the_app_that_asked_can_cancel(tmp_path: Path) -> None:
    async with open_notifier(tmp_path) as notifier:
        ann = await notifier.world.person("ann")
        done = await notifier.notify(
            NotifyRequest(type="contact", user_id=ann.user_id, text="x", send_at="2099-01-01T00:00:00")
        )
        for app_id, request_id in (("other", done.request_id), (APP, "rq_nothing")):
            with pytest.raises(HubbubError) as caught:
                await notifier.core.entry.cancel(app_id, request_id)
            assert caught.value.code == "request_not_found"
        assert (await notifier.row(done.items[0].notification_id)).state == "held"


async def test_a_cancellation_is_gone_on_with_after_a_crash(tmp_path: Path) -> None:
    """That it is being cancelled is stored before any partition is asked."""
    async with open_notifier(tmp_path) as notifier:
        ann = await notifier.world.person("ann")
        done = await notifier.notify(
            NotifyRequest(type="contact", user_ids=[ann.user_id], text="x", send_at="2099-01-01T00:00:00")
        )
        row = RequestRow(
            request_id=done.request_id, app_id=APP, digest="", body="{}", state="cancelling", created_at_ms=1
        )
        await notifier.world.store.commit([Put(row)])
    async with open_notifier(tmp_path, is_new=False) as notifier:
        await notifier.until_state(done.items[0].notification_id, "cancelled")
        while True:
            found = await notifier.world.store.get(RequestRow, done.request_id)
            assert found is not None
            if found.state == "cancelled":
                break
            await trio.sleep(0.005)
        assert found.cancelled_count == 1


async def test_a_backend_cancels_by_http(tmp_path: Path) -> None:
    """A direct request and a larger one, by the id that each was answered with."""
    async with open_api(tmp_path) as api:
        backend = await backend_of(api)
        await backend.user("ann")
        wanted = {"type": "contact", "text": "x", "send_at": "2099-01-01T00:00:00"}
        direct = await backend.json(
            "POST", "/v1/notifications", 202, json={**wanted, "external_ids": ["ann"]}
        )
        found = await backend.json("DELETE", f"/v1/notifications/requests/{direct['request_id']}")
        assert found == {
            "type": "request_cancelled",
            "request_id": direct["request_id"],
            "state": "cancelled",
            "cancelled": 1,
        }
        told = await backend.json("GET", f"/v1/notifications/{direct['items'][0]['notification_id']}/explain")
        assert told["notification"]["state"] == "cancelled"
        assert told["ledger"][-1]["kind"] == "cancelled"
        larger = await backend.json("POST", "/v1/notifications", 202, json={**wanted, "group": "*"})
        path = f"/v1/notifications/requests/{larger['request_id']}"
        found = await backend.json("DELETE", path)
        assert found["state"] == "cancelled"
        assert (await backend.json("GET", path))["state"] == "cancelled"
        url = str(api.client.base_url)
        async with hubbub.AppBackend(url, backend.app_key, backend.secret) as sdk:
            found = await sdk.cancel_notifications(direct["request_id"])
        assert found == RequestCancelled(request_id=direct["request_id"], state="cancelled", cancelled=1)
        missing = await backend.call("DELETE", "/v1/notifications/requests/rq_none")
        assert code_of(missing) == (404, "request_not_found")


async def test_a_bot_cancels_with_the_apps_key(tmp_path: Path) -> None:
    """And nobody without it."""
    async with open_notifier(tmp_path) as notifier:
        key, secret = await notifier.app_key()
        ann = await notifier.world.person("ann")
        done = await notifier.notify(
            NotifyRequest(type="contact", user_id=ann.user_id, text="x", send_at="2099-01-01T00:00:00")
        )
        plain = notify_commands.CancelRequest(request_id=done.request_id)
        assert await ann.refusal(plain) == "forbidden"
        command = notify_commands.CancelRequest(app_key=key, secret=secret, request_id=done.request_id)
        found = await ann.do(command)
        assert found == RequestCancelled(request_id=done.request_id, state="cancelled", cancelled=1)


async def test_a_campaign_that_runs_is_stopped_and_every_notification_accounted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages on their way, decisions, attempts and results all meet the cancellation."""
    monkeypatch.setattr("actors.notify.app.PAGE", 40)
    monkeypatch.setattr("actors.notify.cancel_finder.PAGE", 5)
    real = SqliteNotifyReads.group_page
    pages: list[int] = []

    async def slow(self: SqliteNotifyReads, *args: object, **kwargs: object) -> object:
        pages.append(1)
        if len(pages) > 10:
            await trio.sleep_forever()  # on its way for as long as the request runs
        return await real(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(SqliteNotifyReads, "group_page", slow)
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        await one_type(notifier)
        users = await notifier.world.crowd(600)
        await notifier.have_apns(users)
        sandbox.inject(Fault(channel="apns", holds=True))
        done = await notifier.notify(NotifyRequest(type="t", group="*", text="x"))
        await sandbox.wait_held("apns", 30)
        first = await notifier.core.entry.cancel(APP, done.request_id)
        assert 30 <= sum(counts(first)) <= 400
        assert first.under_way >= 30
        sandbox.release()
        rows = [
            row
            for user_id in users
            for row in await notifier.world.store.notify.history(user_id, before=0, limit=5)
        ]
        assert len(rows) == sum(counts(first))
        states = [(await notifier.settled(row.notification_id)).state for row in rows]
        assert set(states) <= {"done", "cancelled"}
        again = await notifier.core.entry.cancel(APP, done.request_id)
        assert counts(again) == (states.count("cancelled"), 0, 0, states.count("done"))
        assert sandbox.count("apns") == states.count("done")
        assert sandbox.doubles("apns") == {}


async def test_what_is_concluded_while_it_is_looked_at_again_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks what was cancelled must not be told so of what the phone shows."""
    looked, was_sent = trio.Event(), trio.Event()
    real = SqliteNotifyReads.open_of

    async def slow(self: SqliteNotifyReads, *args: object, **kwargs: object) -> object:
        rows = await real(self, *args, **kwargs)  # type: ignore[arg-type]
        looked.set()
        await was_sent.wait()
        return rows

    class Again(Cancel):
        """At its second look: what it finds was on its way into memory at the first."""

        def __init__(self, message: CancelPart) -> None:
            super().__init__(message)
            self.seen = {(notification_id, 0)}

    monkeypatch.setattr(SqliteNotifyReads, "open_of", slow)
    monkeypatch.setattr(cancel_finder, "Cancel", Again)
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox) as scene:
        notifier = scene.notifier
        sandbox.inject(Fault(channel="apns", delay_s=1.0, times=1))
        done = await notifier.notify(NotifyRequest(type="t", user_ids=[scene.user_id], text="x"))
        notification_id = done.items[0].notification_id
        await scene.until(notification_id, lambda row: row.state == "sending")
        found: list[tuple[int, int, int, int]] = []

        async def cancel() -> None:
            found.append(await cancelled(notifier, done))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel)
            await looked.wait()
            await scene.closed(notification_id)
            was_sent.set()
        assert found == [(0, 0, 0, 1)]
        assert (await notifier.row(notification_id)).state == "done"
