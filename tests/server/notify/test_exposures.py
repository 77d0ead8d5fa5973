"""Who counts for a variant of an experiment: against a plain model of what each user was sent."""

from math import sqrt
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from actors.messages import Ask
from actors.notify.address import notify_address
from actors.notify.experiments import assign
from protocol import notify_commands
from protocol.notify_content import NotifyRequest
from protocol.notify_records import NotifyDeviceRow, NotifyUserRow
from protocol.notify_templates import (
    ChannelText,
    Experiment,
    ExperimentResults,
    Template,
    VariantResult,
)
from protocol.notify_types import Preferences, TypeRule
from protocol.records import Op, Put, Update, User
from server.sandbox.faults import Fault
from server.sandbox.sandbox import Sandbox, SandboxOptions, open_sandbox
from tests.server.notify.notify_world import APP, Clock, Notifier, apns_token, open_notifier
from tests.server.notify.test_interleavings import quiet_now
from tests.server.notify.test_pipeline import HOUR_MS

EXPERIMENT = Experiment(
    name="words", template="t", variants={"default": 1, "short": 1}, holdout_percent=20, metric="clicked"
)
# What becomes of a notification: by which type it is sent; and whether somebody who was drawn for `default`,
# or for `short`, has seen that variant's text by it. None: it never was anybody's turn to be drawn.
FATES: dict[str, tuple[str, tuple[bool, bool] | None]] = {
    "accepted": ("push", (True, True)),
    "unknown": ("push", (True, True)),  # it left, and may have come
    "dead": ("push", (False, False)),
    "no_address": ("push", (False, False)),
    "german": ("push", (True, False)),  # `short` is not translated: all read the default's German
    "sms": ("text", (True, False)),  # nor has it any text for SMS
    "expired": ("push", None),  # at night
    "seen": ("both", (True, False)),  # at night, in the app, for which `short` has no text; no push then
}


class Trial:
    """Users for each fate, one notification each."""

    def __init__(self, notifier: Notifier, sandbox: Sandbox, clock: Clock) -> None:
        self.notifier = notifier
        self.sandbox = sandbox
        self.clock = clock
        self.fates: dict[str, str] = {}  # user_id -> fate

    async def set_up(self, users: list[str], texts: dict[str, Any], **rule: Any) -> None:
        """Types that go by each way, and a template with two variants."""
        desk = self.notifier.core.desk
        for name in ("vonage", "apns_development"):
            await desk.remove_provider(APP, name)
        common = {"is_capped": False, "dedup_s": 0, **rule}
        ways = {"push": ["apns"], "text": ["sms"], "both": ["inapp", "apns"]}
        for name, channels in ways.items():
            await desk.put_type(APP, TypeRule(name=name, **{"channels": channels, **common}))
        await desk.put_template(APP, Template(name="t", texts=texts))
        await desk.put_experiment(APP, EXPERIMENT)
        names = list(FATES)
        self.fates = {user_id: names[number % len(names)] for number, user_id in enumerate(users)}

    async def settle_in(self) -> None:
        """Give users what their fates ask for: phones, languages, quiet hours; and providers their moods."""
        ops: list[Op] = []
        for number, (user_id, fate) in enumerate(self.fates.items(), 1):
            address = apns_token(number)
            if fate != "no_address":
                ops.append(device(user_id, "apns", address))
            if fate == "sms":
                ops.append(device(user_id, "sms", f"+49151{number:08d}"))
            if fate == "german":
                ops.append(Update(User, {"user_id": user_id}, {"language": "de"}))
            if fate in ("expired", "seen"):
                wishes = msgspec.json.encode(Preferences(quiet_hours=quiet_now())).decode()
                ops.append(Put(NotifyUserRow(user_id=user_id, app_id=APP, preferences=wishes)))
            if fate == "dead":
                self.sandbox.inject(Fault(channel="apns", match=address, status=410))
            if fate == "unknown":
                self.sandbox.inject(Fault(channel="apns", match=address, drop_after_accept=True))
        await self.notifier.world.store.commit(ops)

    async def send(self, user_id: str, type_name: str, **more: Any) -> int:
        request = NotifyRequest(type=type_name, user_id=user_id, template="t", experiment="words", **more)
        return (await self.notifier.notify(request)).items[0].notification_id

    async def do(self, user_id: str, command: Any) -> None:
        ask = Ask(user_id, APP, command)
        await self.notifier.world.core.router.ask(notify_address(user_id), ask, timeout_s=5)

    async def play(self) -> dict[str, int]:
        """Send to all, let the night pass, and wait until nothing is under way. Returns user -> id."""
        ids: dict[str, int] = {}
        for user_id, fate in self.fates.items():
            expires = {"expires_at_ms": self.clock() + HOUR_MS} if fate == "expired" else {}
            ids[user_id] = await self.send(user_id, FATES[fate][0], **expires)
            if fate == "seen" and (await self.notifier.row(ids[user_id])).in_centre:
                seen = notify_commands.MarkNotifications(mark="seen", notification_ids=[ids[user_id]])
                await self.do(user_id, seen)
            if fate not in ("expired", "seen"):  # one by one, as a connection that breaks takes others along
                await self.notifier.settled(ids[user_id])
        self.clock.pass_by(self.notifier, 3 * HOUR_MS)
        for notification_id in ids.values():
            await self.notifier.settled(notification_id)
        return ids


def device(user_id: str, channel: str, address: str) -> Op:
    return Put(
        NotifyDeviceRow(
            user_id=user_id,
            device_key=channel,
            app_id=APP,
            channel=channel,
            address=address,
            registered_at_ms=1,
        )
    )


def model(fates: dict[str, str], clicked: set[str]) -> dict[str, tuple[int, int, int, int]]:
    """Variant -> exposed, of these clicked, drawn, of these clicked: user by user, as it was told."""
    counts: dict[str, tuple[int, int, int, int]] = {}
    for user_id, fate in fates.items():
        variant, told = assign(EXPERIMENT, user_id), FATES[fate][1]
        if told is None:
            continue
        is_exposed = variant == "holdout" or told[("default", "short").index(variant)]
        has_clicked = user_id in clicked and variant != "holdout"
        exposed, converted, drawn, drawn_converted = counts.get(variant, (0, 0, 0, 0))
        counts[variant] = (
            exposed + is_exposed,
            converted + (is_exposed and has_clicked),
            drawn + 1,
            drawn_converted + has_clicked,
        )
    return counts


def plain_wilson(successes: int, count: int) -> tuple[float, float]:
    """Wilson's interval as it stands in textbooks."""
    z, share = 1.959964, successes / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def counted(found: VariantResult) -> tuple[int, int, int, int]:
    assert found.drawn is not None
    return found.exposures, found.conversions, found.drawn.users, found.drawn.conversions


def all_counts(results: ExperimentResults) -> dict[str, tuple[int, int, int, int]]:
    assert results.holdout is not None
    return {found.variant: counted(found) for found in (*results.variants, results.holdout)}


async def test_who_was_sent_a_variants_own_text_counts_for_it_and_nobody_else(tmp_path: Path) -> None:
    """Conclusions are drawn from it: what was meant to be sent has convinced nobody."""
    clock = Clock()
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_notifier(tmp_path, sandbox, clock=clock) as notifier,
    ):
        trial = Trial(notifier, sandbox, clock)
        long, short = ChannelText(title="Long", body="Words"), ChannelText(title="Short")
        texts = {
            "default": {"en": {"default": long}, "de": {"default": ChannelText(title="Wort", body="Worte")}},
            "short": {"en": {"apns": short}},
        }
        await trial.set_up(await notifier.world.crowd(96), texts)
        await trial.settle_in()
        with trio.fail_after(40):
            ids = await trial.play()
        reached = [u for u, fate in trial.fates.items() if fate in ("accepted", "german", "sms")]
        clicked = {user_id for user_id in reached[::2] if assign(EXPERIMENT, user_id) != "holdout"}
        for user_id in clicked:
            await notifier.mark(ids[user_id], "clicked")
        await notifier.world.store.barrier()

        results = await notifier.core.desk.experiment_results(APP, "words")
        wanted = model(trial.fates, clicked)
        assert all_counts(results) == wanted
        for found in results.variants:
            assert found.drawn is not None
            assert (found.low, found.high) == pytest.approx(
                plain_wilson(found.conversions, found.exposures), abs=1e-6
            )
            assert (found.drawn.low, found.drawn.high) == pytest.approx(
                plain_wilson(found.drawn.conversions, found.drawn.users), abs=1e-6
            )
        assert wanted["short"][0] < wanted["short"][2]  # the two do tell different things here
        told = next(u for u in reached if trial.fates[u] == "accepted" and assign(EXPERIMENT, u) == "short")
        assert ("experiment", "sent", "exposed") in await notifier.rules(ids[told])


async def test_what_the_app_shows_at_night_is_the_users_variant_and_nothing_to_the_holdout(
    tmp_path: Path,
) -> None:
    """The copy in the app goes before the push: it would show all of them the default, and to the holdout."""
    clock = Clock()
    async with (
        open_sandbox(options=SandboxOptions(now_ms=clock)) as sandbox,
        open_notifier(tmp_path, sandbox, clock=clock) as notifier,
    ):
        trial = Trial(notifier, sandbox, clock)
        texts = {name: {"en": {"default": ChannelText(title=name)}} for name in ("default", "short")}
        users = await notifier.world.crowd(30)
        await trial.set_up(users, texts)
        trial.fates = dict.fromkeys(users, "seen")
        await trial.settle_in()
        for user_id in users:
            row = await notifier.row(await trial.send(user_id, "both"))
            variant = assign(EXPERIMENT, user_id)
            assert row.state == "held"
            assert row.variant == f"words:{variant}"
            if variant == "holdout":
                assert (row.in_centre, row.title, row.is_exposed) == (False, "", False)
            else:
                assert (row.in_centre, row.title, row.is_exposed) == (True, variant, True)
        clock.pass_by(notifier, 3 * HOUR_MS)
        shown = [user_id for user_id in users if assign(EXPERIMENT, user_id) != "holdout"]
        assert 0 < len(shown) < len(users)
        with trio.fail_after(20):
            await sandbox.wait_for("apns", len(shown))


async def test_a_fallback_has_the_users_variant_and_exposes_to_it(tmp_path: Path) -> None:
    """The push never came, so the text message is what they have read."""
    async with open_sandbox() as sandbox, open_notifier(tmp_path, sandbox) as notifier:
        trial = Trial(notifier, sandbox, Clock())
        names = ("default", "short")
        texts = {name: {"en": {"default": ChannelText(body=f"the {name} one")}} for name in names}
        users = await notifier.world.crowd(12)
        await trial.set_up(users, texts, fallback=["sms"])
        sandbox.inject(Fault(channel="apns", status=410))
        ops = [device(user_id, "apns", apns_token(number + 1)) for number, user_id in enumerate(users)]
        ops += [device(user_id, "sms", f"+49151{number:08d}") for number, user_id in enumerate(users)]
        await notifier.world.store.commit(ops)
        by_variant: dict[str, int] = {}
        for user_id in users:
            variant = assign(EXPERIMENT, user_id)
            by_variant[variant] = by_variant.get(variant, 0) + 1
            row = await notifier.settled(await trial.send(user_id, "push"))
            assert row.is_exposed == (variant != "holdout")
        sent = [str(delivery) for delivery in sandbox.deliveries("twilio")]
        for variant in names:
            assert sum(f"the {variant} one" in one for one in sent) == by_variant[variant] > 0
