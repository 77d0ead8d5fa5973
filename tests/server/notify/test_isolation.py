"""One app whose setup cannot be read costs itself alone; the others of its partition go on."""

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from actors.notify import timekeeper
from actors.notify.address import partition_of
from protocol import notify_commands
from protocol.errors import HubbubError, Unavailable
from protocol.notify_content import NotifyRequest
from protocol.notify_records import TemplateRow
from protocol.notify_types import TypeRule
from server.notify import setup_failures, setups
from server.notify.setup_failures import FIRST_RETRY_S, MAX_RETRY_S, UNREADABLE, SetupFailures
from server.sandbox.sandbox import open_sandbox
from storage.notify_reads import SqliteNotifyReads
from tests.server.notify.notify_world import APP, Clock, Notifier, open_notifier
from tests.server.world import Device

BAD = "bad"
HOUR_MS = 3_600_000
PHONE = "+4915112345678"
# A text that is none, as after a fault of the disk.
NO_TEXT = "INSERT INTO notify_type (app_id, name, body) VALUES ('bad', 'x', CAST(X'FF' AS TEXT))"
MENDED = "DELETE FROM notify_type WHERE app_id = 'bad' AND name = 'x'"


def write(directory: Path, sql: str) -> None:
    """Write past everything that checks what is written, while no node runs."""
    connection = sqlite3.connect(directory / "hubbub.db")
    with connection:
        connection.execute(sql)
    connection.close()


def in_an_hour() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")


async def two_apps(notifier: Notifier) -> tuple[Device, Device]:
    """A user of each of two apps, in one partition."""
    for app_id in (APP, BAD):
        rule = TypeRule(name="t", channels=["inapp", "sms"], dedup_s=0, is_capped=False)
        await notifier.core.desk.put_type(app_id, rule)
    good = await notifier.world.person("ann")
    for number in range(1_000):
        bad = await notifier.world.person(f"bob{number}", BAD)
        if partition_of(bad.user_id) == partition_of(good.user_id):
            break
    for device in (good, bad):
        await device.do(notify_commands.RegisterPush(channel="sms", address=PHONE))
        device.disconnect()
    return good, bad


async def leave_waiting(notifier: Notifier, device: Device, app_id: str) -> list[int]:
    """One that waits for its account, and one that is held until a time."""
    await notifier.core.desk.pause_provider(app_id, "twilio", is_paused=True)
    waits = NotifyRequest(type="t", user_id=device.user_id, text="waits", channels=["sms"])
    held = NotifyRequest(
        type="t", user_id=device.user_id, text="held", channels=["inapp"], send_at=in_an_hour()
    )
    return [(await notifier.notify(request, app_id)).items[0].notification_id for request in (waits, held)]


async def test_an_app_that_cannot_be_read_costs_no_other_app_of_its_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand apps share sixteen partitions: one's broken row must not silence them all."""
    monkeypatch.setattr(timekeeper, "TICK_S", 0.1)
    monkeypatch.setattr(setups, "REFRESH_S", 0.1)
    monkeypatch.setattr(setup_failures, "MAX_RETRY_S", 0.2)
    monkeypatch.setattr(setup_failures, "FIRST_RETRY_S", 0.2)
    clock = Clock()
    async with open_sandbox() as sandbox:
        async with open_notifier(tmp_path, sandbox, clock=clock) as notifier:
            await notifier.core.desk.remove_provider(APP, "vonage")
            await notifier.core.desk.put_provider(BAD, "twilio", sandbox.configs().twilio)
            good, bad = await two_apps(notifier)
            theirs = await leave_waiting(notifier, bad, BAD)  # due before the other's
            ours = await leave_waiting(notifier, good, APP)
        write(tmp_path, NO_TEXT)
        clock.ahead_ms = 2 * HOUR_MS
        async with open_notifier(tmp_path, sandbox, is_new=False, clock=clock) as notifier:
            with trio.fail_after(20):
                assert (await notifier.settled(ours[1])).state == "done"  # the partition has started
                await notifier.core.desk.pause_provider(APP, "twilio", is_paused=False)
                assert (await notifier.settled(ours[0])).state == "done"
                asked = NotifyRequest(type="t", user_id=good.user_id, text="new", channels=["inapp"])
                assert (await notifier.notify(asked)).items[0].state == "done"
                for _ in range(3):
                    with pytest.raises(HubbubError) as caught:
                        await notifier.notify(
                            NotifyRequest(type="t", user_id=bad.user_id, text="new", channels=["inapp"]), BAD
                        )
                    assert (caught.value.code, caught.value.retry_after_s) == (UNREADABLE, 5.0)
                again = await notifier.world.person(bad.user_id.removeprefix("u_"), BAD)
                assert await again.refusal(notify_commands.GetPreferences()) == UNREADABLE
                assert notifier.core.gauges()["setups_unreadable"] == 1
                assert (await notifier.core.dashboard.of("")).unreadable == [BAD]
                assert (await notifier.core.dashboard.of(APP)).unreadable == []
                assert [(await notifier.row(one)).state for one in theirs] == ["open", "held"]
                write(tmp_path, MENDED)  # and it goes on by itself
                assert (await notifier.settled(theirs[1])).state == "done"
                await notifier.core.desk.pause_provider(BAD, "twilio", is_paused=False)
                assert (await notifier.settled(theirs[0])).state == "done"
                assert notifier.core.gauges()["setups_unreadable"] == 0
        assert sandbox.count("twilio") == 2


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (Unavailable("timeout"), UNREADABLE),  # more than the store reads in its time
        (ValueError("whatever a row brings about"), UNREADABLE),
        (RecursionError(), UNREADABLE),
    ],
)
async def test_who_waits_for_one_app_s_setup_waits_for_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, code: str
) -> None:
    """A read of two seconds must not be everybody's two seconds, and be made once."""
    real = SqliteNotifyReads.newest_templates
    has_begun, may_go_on, reads = trio.Event(), trio.Event(), []

    async def newest_templates(self: SqliteNotifyReads, app_id: str) -> list[TemplateRow]:
        if app_id != BAD:
            return await real(self, app_id)
        reads.append(app_id)
        has_begun.set()
        await may_go_on.wait()
        raise failure

    async with open_notifier(tmp_path) as notifier:
        monkeypatch.setattr(SqliteNotifyReads, "newest_templates", newest_templates)
        setups_of, codes = notifier.core.setups, []

        async def ask() -> None:
            with pytest.raises(HubbubError) as caught:
                await setups_of.load(BAD)
            codes.append(caught.value.code)

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(ask)
                await has_begun.wait()
                assert (await setups_of.reload(APP)).app_id == APP
                assert not codes
                may_go_on.set()
            await ask()
        assert codes == [code] * 4
        assert reads == [BAD]
        assert setups_of.put_off() == setups_of.unreadable() == [BAD]


def test_a_setup_that_fails_is_tried_ever_less_often() -> None:
    """Each try may take the store two seconds; who asks meanwhile is refused at once."""
    failures, now = SetupFailures(), 100.0
    error = Unavailable(UNREADABLE)
    for number in range(12):
        failure = failures.failed("a", error, now)
        assert failure.retry_at_s - now == min(MAX_RETRY_S, FIRST_RETRY_S * 2**number)
        assert failures.error_of("a", failure.retry_at_s - 0.01) is error
        assert failures.error_of("b", now) is None
        assert failures.due(failure.retry_at_s - 0.01) == []
        now = failure.retry_at_s
        assert failures.error_of("a", now) is error  # it is for the node to try
        assert failures.due(now) == failures.apps() == failures.unreadable() == ["a"]
    assert failures.failed("a", Unavailable("storage_unavailable"), now).count == 1
    assert failures.unreadable() == []  # the store's fault, and not the app's
    assert failures.error_of("a", now + FIRST_RETRY_S) is None  # whoever asks may find it well
    failures.mended("a")
    assert failures.apps() == []
