"""What each provider's failures lead to, on a real node against the sandbox: the tables of their rules."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from actors.notify.channel import HANDS
from protocol import notify_commands, notify_replies
from protocol.notify_content import NotifyRequest
from protocol.notify_records import DeliveryRow
from protocol.notify_types import Channel, TypeRule
from server.sandbox.faults import Fault
from server.sandbox.sandbox import Sandbox, open_sandbox
from tests.server.notify.notify_world import APP, Notifier, apns_token, open_notifier
from tests.server.world import Device

SERVICE = {"apns": "apns", "fcm": "fcm", "webpush": "webpush", "sms": "twilio", "email": "smtp"}


async def reachable(notifier: Notifier, sandbox: Sandbox, channel: Channel) -> Device:
    """A user with one address on a channel, who is not connected."""
    ann = await notifier.world.person("ann")
    keys: dict[str, str] = {}
    address = {
        "apns": apns_token(1),
        "fcm": "fcm-token-of-ann-0123456789",
        "sms": "+4915112345678",
        "email": "ann@example.org",
    }.get(channel, "")
    if channel == "webpush":
        subscription = sandbox.webpush.subscribe()
        address = subscription.endpoint
        keys = {"p256dh": subscription.p256dh, "auth": subscription.auth}
    await ann.do(notify_commands.RegisterPush(channel=channel, address=address, keys=keys))
    ann.disconnect()
    return ann


class Trial:
    """One notification by one channel, with one account at one provider."""

    def __init__(self, notifier: Notifier, sandbox: Sandbox, user_id: str, channel: Channel) -> None:
        self.notifier = notifier
        self.sandbox = sandbox
        self.user_id = user_id
        self.channel = channel

    async def send(self, text: str = "x", **more: object) -> int:
        done = await self.notifier.notify(
            NotifyRequest(type="t", user_id=self.user_id, text=text, **more)  # type: ignore[arg-type]
        )
        return done.items[0].notification_id

    async def ended(self, notification_id: int) -> DeliveryRow:
        await self.notifier.settled(notification_id)
        (delivery,) = await self.notifier.world.store.notify.deliveries(notification_id)
        return delivery

    async def is_registered(self) -> bool:
        found = await self.notifier.world.store.notify.users([self.user_id], since_id=0, counted_since_ms=0)
        return bool(found[0].devices)


@asynccontextmanager
async def open_trial(directory: Path, channel: Channel, **rule: object) -> AsyncIterator[Trial]:
    async with open_sandbox() as sandbox, open_notifier(directory, sandbox) as notifier:
        for name in ("vonage", "apns_development"):  # one account each, so that nobody steps in
            await notifier.core.desk.remove_provider(APP, name)
        made = TypeRule(name="t", channels=[channel], **rule)  # type: ignore[arg-type]  # fields of TypeRule
        await notifier.core.desk.put_type(APP, made)
        ann = await reachable(notifier, sandbox, channel)
        yield Trial(notifier, sandbox, ann.user_id, channel)


ALL: list[Channel] = ["apns", "fcm", "webpush", "sms", "email"]


@pytest.mark.parametrize("channel", ALL)
@pytest.mark.parametrize("fate", ["refused for now", "reset before", "slow"])
async def test_what_passes_by_is_tried_again_and_arrives_once(
    tmp_path: Path, channel: Channel, fate: str
) -> None:
    """A provider's bad second is nobody's lost notification."""
    service = SERVICE[channel]
    async with open_trial(tmp_path, channel) as trial:
        if fate == "slow":
            trial.sandbox.inject(Fault(channel=service, delay_s=0.5, times=1))
        elif fate == "reset before" and channel == "email":
            trial.sandbox.inject(Fault(channel=service, reset=True, at="mail", times=1))
        elif fate == "reset before":
            # After the request has left, a reset leaves the outcome open: see below. GOAWAY does not.
            if channel == "sms":
                pytest.skip("HTTP/1.1 has no way to say that a request was not looked at")
            trial.sandbox.inject(Fault(channel=service, goaway=True, times=1))
        elif channel == "email":
            trial.sandbox.inject(Fault(channel=service, status=451, times=1))
        else:
            trial.sandbox.inject(Fault(channel=service, status=429, retry_after_s=1, times=1))
        delivery = await trial.ended(await trial.send())
        assert delivery.state == "accepted", delivery
        assert trial.sandbox.count(service) == 1
        assert delivery.attempt == (1 if fate == "slow" else 2), delivery


@pytest.mark.parametrize("channel", ["apns", "fcm", "webpush"])
async def test_a_server_error_is_tried_again(tmp_path: Path, channel: Channel) -> None:
    """Push providers say that they have not taken it."""
    async with open_trial(tmp_path, channel) as trial:
        trial.sandbox.inject(Fault(channel=SERVICE[channel], status=503, times=2))
        delivery = await trial.ended(await trial.send())
        assert (delivery.state, delivery.attempt) == ("accepted", 3), delivery
        assert trial.sandbox.count(SERVICE[channel]) == 1


@pytest.mark.parametrize(
    ("channel", "fault", "state"),
    [
        ("apns", Fault(channel="apns", status=410, times=1, timestamp_ms=4_000_000_000_000), "refused"),
        ("apns", Fault(channel="apns", status=400, code="BadDeviceToken", times=1), "refused"),
        ("fcm", Fault(channel="fcm", status=404, code="UNREGISTERED", times=1), "refused"),
        ("webpush", Fault(channel="webpush", status=410, times=1), "refused"),
        ("webpush", Fault(channel="webpush", status=404, times=1), "refused"),
        ("sms", Fault(channel="twilio", status=400, code="21211", times=1), "refused"),
        ("sms", Fault(channel="twilio", status=400, code="21610", times=1), "refused"),
        ("email", Fault(channel="smtp", status=550, code="5.1.1", at="rcpt", times=1), "refused"),
    ],
)
async def test_a_dead_address_is_retired_and_not_tried_again(
    tmp_path: Path, channel: Channel, fault: Fault, state: str
) -> None:
    """Providers punish who goes on sending to the dead."""
    async with open_trial(tmp_path, channel) as trial:
        await trial.ended(await trial.send("which shows that the account is right"))
        trial.sandbox.inject(fault)
        delivery = await trial.ended(await trial.send())
        assert (delivery.state, delivery.attempt) == (state, 1), delivery
        assert not await trial.is_registered()
        assert trial.sandbox.count(SERVICE[channel]) == 1


@pytest.mark.parametrize("channel", ["webpush", "fcm", "apns", "email"])
async def test_a_passing_failure_never_retires_an_address(tmp_path: Path, channel: Channel) -> None:
    """One 503 that unsubscribed everybody is a bug that others had."""
    async with open_trial(tmp_path, channel, ttl_s=1) as trial:
        status = 451 if channel == "email" else 503
        trial.sandbox.inject(Fault(channel=SERVICE[channel], status=status))
        delivery = await trial.ended(await trial.send())
        assert delivery.state == "refused", delivery
        assert await trial.is_registered()


@pytest.mark.parametrize("channel", ALL)
@pytest.mark.parametrize("may_double", [False, True])
async def test_an_answer_that_was_lost_is_unknown(tmp_path: Path, channel: Channel, may_double: bool) -> None:
    """It may have arrived: what comes twice is decided by the type, and counted."""
    async with open_trial(tmp_path, channel, may_double=may_double) as trial:
        trial.sandbox.inject(Fault(channel=SERVICE[channel], drop_after_accept=True, times=1))
        delivery = await trial.ended(await trial.send())
        copies = trial.sandbox.count(SERVICE[channel])
        if may_double:
            assert (delivery.state, delivery.attempt, delivery.doubles, copies) == ("accepted", 2, 1, 2)
        else:
            assert (delivery.state, delivery.attempt, delivery.doubles, copies) == ("unknown", 1, 0, 1)


@pytest.mark.parametrize("channel", ["apns", "fcm", "webpush"])
async def test_a_collapse_key_heals_what_may_have_come_twice(tmp_path: Path, channel: Channel) -> None:
    """The device shows one, so it is safe to send it again."""
    async with open_trial(tmp_path, channel) as trial:
        trial.sandbox.inject(Fault(channel=SERVICE[channel], drop_after_accept=True, times=1))
        delivery = await trial.ended(await trial.send(collapse_key="order-7"))
        assert (delivery.state, delivery.attempt, delivery.doubles) == ("accepted", 2, 1)


@pytest.mark.parametrize(
    ("channel", "fault"),
    [
        ("apns", Fault(channel="apns", status=400, code="BadTopic", times=1)),
        ("fcm", Fault(channel="fcm", status=400, code="INVALID_ARGUMENT", times=1)),
        ("webpush", Fault(channel="webpush", status=400, times=1)),
        ("email", Fault(channel="smtp", status=554, at="data", times=1)),
    ],
)
async def test_our_own_mistake_becomes_a_dead_letter_at_once(
    tmp_path: Path, channel: Channel, fault: Fault
) -> None:
    """Trying again would not help; a developer has to look."""
    async with open_trial(tmp_path, channel) as trial:
        trial.sandbox.inject(fault)
        delivery = await trial.ended(await trial.send())
        if channel == "fcm" and delivery.state == "refused":
            return  # INVALID_ARGUMENT about the token retires it: told apart by its details
        assert (delivery.state, delivery.attempt) == ("dead", 1), delivery
        assert await trial.is_registered()


async def test_the_next_provider_steps_in_for_a_broken_one(tmp_path: Path) -> None:
    """Codes go on while one company has a bad day."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        rule = TypeRule(name="t", channels=["sms"], is_security=True)
        await notifier.core.desk.put_type(APP, rule)
        ann = await reachable(notifier, sandbox, "sms")
        sandbox.inject(Fault(channel="twilio", status=401, code="20003"))
        done = await notifier.notify(NotifyRequest(type="t", user_id=ann.user_id, text="4711"))
        await sandbox.wait_for("vonage", 1)
        await notifier.settled(done.items[0].notification_id)
        (delivery,) = await notifier.world.store.notify.deliveries(done.items[0].notification_id)
        assert (delivery.state, delivery.provider_id) == ("accepted", "vonage")
        assert sandbox.count("twilio") == 0


async def test_a_stalled_provider_holds_up_no_other_channel(tmp_path: Path) -> None:
    """A hanging SMTP server must not delay push."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        await notifier.core.desk.put_type(APP, TypeRule(name="m", channels=["email"], is_capped=False))
        await notifier.core.desk.put_type(APP, TypeRule(name="p", channels=["apns"], is_capped=False))
        ann = await reachable(notifier, sandbox, "email")
        again = await notifier.world.connect(ann.identity)
        await notifier.has_apns(again, 1)
        again.disconnect()
        sandbox.inject(Fault(channel="smtp", stall=True))
        for number in range(50):
            await notifier.notify(NotifyRequest(type="m", user_id=ann.user_id, text=f"m{number}"))
        for number in range(50):
            await notifier.notify(NotifyRequest(type="p", user_id=ann.user_id, text=f"p{number}"))
        await sandbox.wait_for("apns", 50)
        assert sandbox.count("smtp") == 0


async def test_codes_pass_a_campaign(tmp_path: Path) -> None:
    """HIGH has hands of its own: a slow provider with a full queue still takes codes first."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        await notifier.core.desk.put_type(
            APP, TypeRule(name="news", channels=["sms"], priority="low", is_capped=False)
        )
        await notifier.core.desk.put_type(
            APP, TypeRule(name="code", channels=["sms"], priority="high", is_security=True)
        )
        await notifier.core.desk.remove_provider(APP, "vonage")
        ann = await reachable(notifier, sandbox, "sms")
        sandbox.inject(Fault(channel="twilio", holds=True))
        for number in range(2 * HANDS["sms"]):
            await notifier.notify(NotifyRequest(type="news", user_id=ann.user_id, text=f"n{number}"))
        await sandbox.wait_held("twilio")
        await notifier.notify(NotifyRequest(type="code", user_id=ann.user_id, text="code 4711"))
        before = seen = sandbox.count("sms")
        sandbox.release()
        while True:
            texts = [str(found.content) for found in await sandbox.wait_for("sms", seen + 1)]
            seen = len(texts)
            if any("4711" in text for text in texts):
                break
        # What was under way may end before it; of what waited, nothing goes before it.
        assert seen - before <= HANDS["sms"], (before, seen)


async def test_one_subscription_of_another_key_does_not_stop_its_host(tmp_path: Path) -> None:
    """Anybody can register an endpoint; one that refuses us must not keep others from being pushed."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        await notifier.core.desk.put_type(APP, TypeRule(name="t", channels=["webpush"], is_capped=False))
        ann = await notifier.world.person("ann")
        other = sandbox.webpush.subscribe(
            "BNcRdreALRFXTkOOUHK1EtK2wtaz5Ry4YfYCA_0QTpQtUbVlUls0VJXg7A8u-Ts1XbjhazAkj7I99e8QcYP7DkM"
        )
        own = sandbox.webpush.subscribe()
        for subscription in (other, own):
            await ann.do(
                notify_commands.RegisterPush(
                    channel="webpush",
                    address=subscription.endpoint,
                    keys={"p256dh": subscription.p256dh, "auth": subscription.auth},
                )
            )
        ann.disconnect()
        done = await notifier.notify(NotifyRequest(type="t", user_id=ann.user_id, text="x"))
        await sandbox.wait_for("webpush", 1)
        await notifier.settled(done.items[0].notification_id)
        devices = await (await notifier.world.person("ann")).do(notify_commands.ListPush())
        assert isinstance(devices, notify_replies.PushDevices)
        assert len(devices.items) == 1
