"""The whole way of a notification, from the request to the provider, on one node with the sandbox."""

from pathlib import Path

import pytest

from protocol import notify_commands, notify_events, notify_replies
from protocol.notify_content import NotifyRequest
from server.sandbox.sandbox import open_sandbox
from tests.server.notify.notify_world import open_notifier


async def test_a_request_is_shown_in_the_app_and_pushed_once(tmp_path: Path) -> None:
    """The least that every app relies on."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        ann = await notifier.world.person("ann")
        await notifier.has_apns(ann, 1)
        ann.disconnect()
        done = await notifier.notify(
            NotifyRequest(type="contact", user_id=ann.user_id, title="Hi", text="Ben")
        )
        assert [item.state for item in done.items] == ["open"]
        (arrived,) = await sandbox.wait_for("apns", 1)
        await notifier.settled(done.items[0].notification_id)
        assert await notifier.kinds(done.items[0].notification_id) == ["decided", "concluded"]
        page = await (await notifier.world.person("ann")).do(notify_commands.ListNotifications())
        assert isinstance(page, notify_replies.NotificationPage)
        assert (page.unread, [item.title for item in page.items]) == (1, ["Hi"])
        assert sandbox.doubles("apns") == {}
        assert arrived is not None


async def test_the_same_key_and_the_same_content_are_sent_once(tmp_path: Path) -> None:
    """Backends retry; a double order confirmation is a support call."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        ann = await notifier.world.person("ann")
        await notifier.has_apns(ann, 1)
        ann.disconnect()
        request = NotifyRequest(type="contact", user_id=ann.user_id, text="Hi", idempotency_key="k1")
        first = await notifier.notify(request)
        again = await notifier.notify(request)
        assert again.repeated
        assert again.items[0].notification_id == first.items[0].notification_id
        other = await notifier.notify(NotifyRequest(type="contact", user_id=ann.user_id, text="Hi"))
        assert (other.items[0].state, other.items[0].reason) == (
            "dropped",
            f"a duplicate of {first.items[0].notification_id}",
        )
        changed = NotifyRequest(type="contact", user_id=ann.user_id, text="Ho", idempotency_key="k1")
        assert await notifier.refusal(changed) == "payload_conflict"
        await sandbox.wait_for("apns", 1)
        await notifier.settled(first.items[0].notification_id)
        assert sandbox.count("apns") == 1


async def test_a_connected_user_who_looks_is_not_pushed(tmp_path: Path) -> None:
    """What was just seen in the app does not ring the phone as well."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        ann = await notifier.world.person("ann")
        await notifier.has_apns(ann, 1)
        done = await notifier.notify(NotifyRequest(type="contact", user_id=ann.user_id, text="Hi"))
        (shown,) = await ann.until(notify_events.NotificationShown)
        assert shown.unread == 1
        badge = await ann.do(
            notify_commands.MarkNotifications(mark="read", notification_ids=[shown.item.notification_id])
        )
        assert badge == notify_replies.Badge(unread=0)
        await notifier.settled(done.items[0].notification_id)
        assert sandbox.count("apns") == 0


async def test_what_was_accepted_is_sent_after_a_restart(tmp_path: Path) -> None:
    """An ack means stored: a provider's outage and a restart in it lose nothing."""
    async with open_sandbox() as sandbox:
        async with open_notifier(tmp_path, sandbox) as notifier:
            ann = await notifier.world.person("ann")
            await notifier.has_apns(ann, 1)
            ann.disconnect()
            with sandbox.outage("apns"):
                await notifier.notify(NotifyRequest(type="contact", user_id=ann.user_id, text="Hi"))
                await notifier.until_stat("retried", 1)
        async with open_notifier(tmp_path, sandbox, is_new=False) as notifier:
            await sandbox.wait_for("apns", 1)


async def test_a_campaign_reaches_each_user_of_a_group_once(tmp_path: Path) -> None:
    """Hundreds of thousands of users are one request."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        users = await notifier.world.crowd(300)
        await notifier.have_apns(users)
        done = await notifier.notify(
            NotifyRequest(type="contact", group="*", text="News", idempotency_key="campaign")
        )
        assert done.state == "running"
        await sandbox.wait_for("apns", 300)
        again = await notifier.notify(
            NotifyRequest(type="contact", group="*", text="News", idempotency_key="campaign")
        )
        assert again.repeated
        await notifier.until_stat("accepted", 300)
        assert sandbox.count("apns") == 300
        assert sandbox.doubles("apns") == {}


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (NotifyRequest(type="nothing", user_id="u_ann", text="Hi"), "type_not_found"),
        (NotifyRequest(type="contact", user_id="u_nobody", text="Hi"), "user_not_found"),
        (NotifyRequest(type="contact", user_id="u_ann", text="ä" * 751), "text_too_long"),
        (NotifyRequest(type="contact", user_id="u_ann"), "text_empty"),
        (NotifyRequest(type="contact", text="Hi"), "bad_field"),
        (NotifyRequest(type="contact", user_id="u_ann", template="none"), "template_not_found"),
        (NotifyRequest(type="contact", group="none", text="Hi"), "group_not_found"),
        (NotifyRequest(type="contact", user_id="u_ann", text="Hi", cron="x"), "bad_field"),
        (NotifyRequest(type="contact", user_id="u_ann", text="Hi", send_at="soon"), "bad_field"),
        (NotifyRequest(type="contact", external_ids=["x"], text="Hi"), "user_not_found"),
        (NotifyRequest(type="contact", user_id="u_ann", text="Hi", url="javascript:x"), "bad_field"),
        (NotifyRequest(type="contact", user_id="u_ann", text="Hi", image="file:///x"), "bad_field"),
    ],
)
async def test_bad_input_gets_its_code_and_sends_nothing(
    tmp_path: Path, request_: NotifyRequest, code: str
) -> None:
    """Developers meet these first."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        ann = await notifier.world.person("ann")
        await notifier.has_apns(ann, 1)
        assert await notifier.refusal(request_) == code
        assert notifier.stats.notified == 0
