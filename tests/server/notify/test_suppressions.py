"""Who said STOP, complained or has no mailbox any more is not written to again by the way."""

from pathlib import Path

import pytest
import trio

from actors.messages import AddressStopped, encode_tell
from actors.notify.address import notify_address, partition_of
from actors.notify.addresses import device_key
from actors.notify.messages import PutAddress, StopAddress
from protocol import notify_commands, notify_replies
from protocol.notify_content import NotifyRequest
from protocol.notify_records import NotifyDeviceRow, SuppressionRow
from protocol.notify_types import Channel
from protocol.records import Put, Tell
from server.directory import Directory
from server.notify.import_lines import open_file
from server.notify.importing import Importer
from server.sandbox.faults import Fault
from server.sandbox.sandbox import open_sandbox
from tests.server.notify.notify_world import APP
from tests.server.notify.test_interleavings import PHONE, Scene, open_scene
from tests.server.world import Device

MAIL = "ann@example.com"


async def put(
    scene: Scene, channel: Channel, address: str, *, is_import: bool = False
) -> notify_replies.PushDevices:
    """As the app's backend, or by an import."""
    message = PutAddress(scene.user_id, APP, channel, address, is_import=is_import)
    answer = await scene.notifier.world.core.router.ask(notify_address(scene.user_id), message, timeout_s=5)
    assert isinstance(answer, notify_replies.PushDevices)
    return answer


async def nothing(*_: object) -> None:
    """What an import of mail addresses does not need."""


async def dropped(scene: Scene, channel: str, code: str) -> None:
    """Notify, and see that nothing is sent, and that it is told why."""
    notification_id = await scene.send("another")
    row = await scene.notifier.row(notification_id)
    assert row.state == "dropped"
    told = str([entry.body for entry in await scene.notifier.ledger(notification_id)])
    assert f"{channel}: {code}" in told


@pytest.mark.parametrize("how", ["answer", "receipt"])
async def test_stop_stays_stop_until_the_user_opts_in(tmp_path: Path, how: str) -> None:
    """Each message after STOP costs the app its number, and in the USA a fine."""
    async with open_sandbox() as sandbox:
        async with open_scene(tmp_path, sandbox, phone=True, channels=["sms"]) as scene:
            if how == "answer":
                sandbox.inject(Fault(channel="twilio", status=400, code="21610", times=1))
            first = await scene.send("ad 1")
            await scene.closed(first)
            if how == "receipt":
                await scene.told(first, "complained", action="suppress")
            code = "21610" if how == "answer" else "complained"
            sent = sandbox.count("twilio")
            await put(scene, "sms", PHONE, is_import=True)
            await put(scene, "sms", PHONE)
            listed = await scene.do(notify_commands.RegisterPush(channel="sms", address=PHONE))
            assert isinstance(listed, notify_replies.PushDevices)
            assert [item.retired_for for item in listed.items if item.channel == "sms"] == [code]
            await dropped(scene, "sms", code)
        async with open_scene(tmp_path, sandbox, is_new=False) as scene:
            await dropped(scene, "sms", code)
            command = notify_commands.RegisterPush(channel="sms", address=PHONE, opt_in=True)
            listed = await scene.do(command)
            assert isinstance(listed, notify_replies.PushDevices)
            assert [item.retired_for for item in listed.items if item.channel == "sms"] == [""]
            await scene.closed(await scene.send("wanted"))
            assert sandbox.count("twilio") == sent + 1
            await put(scene, "sms", PHONE)
            await scene.closed(await scene.send("wanted again"))
            assert sandbox.count("twilio") == sent + 2


async def test_a_bounce_is_not_undone_by_an_import(tmp_path: Path) -> None:
    """Mail to dead boxes makes a sender's other mail spam; whoever mends a mailbox registers it again."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox, channels=["email"]) as scene:
        await put(scene, "email", MAIL, is_import=True)
        sandbox.inject(Fault(channel="smtp", at="rcpt", status=550, code="5.1.1 no such user", times=1))
        await scene.closed(await scene.send("hello"))
        await put(scene, "email", MAIL, is_import=True)
        await dropped(scene, "email", "550")
        await scene.do(notify_commands.RegisterPush(channel="email", address=MAIL))
        await scene.closed(await scene.send("there again"))
        assert sandbox.count("smtp") == 1
        assert await scene.notifier.world.store.find(SuppressionRow, {"app_id": APP}) == []


async def test_a_complaint_counts_also_for_an_address_that_is_not_there(tmp_path: Path) -> None:
    """Complaints come days later; the address may come and go with imports meanwhile."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox, channels=["email"]) as scene:
        devices = await put(scene, "email", MAIL)
        notification_id = await scene.send("hello")
        await scene.closed(notification_id)
        (mail,) = [item.device_key for item in devices.items if item.channel == "email"]
        await scene.do(notify_commands.UnregisterPush(device_key=mail))
        await scene.told(notification_id, "complained", action="suppress")
        await put(scene, "email", MAIL)
        await dropped(scene, "email", "complained")
        await scene.erase()
        await put(scene, "email", MAIL, is_import=True)
        await dropped(scene, "email", "complained")


async def test_an_import_is_no_sign_of_life(tmp_path: Path) -> None:
    """A bounce that is told after the next night's import still counts."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox, channels=["email"]) as scene:
        await put(scene, "email", MAIL)
        notification_id = await scene.send("hello")
        await scene.closed(notification_id)
        await put(scene, "email", MAIL, is_import=True)
        await scene.told(notification_id, "bounced", action="retire")
        await dropped(scene, "email", "bounced")


@pytest.mark.parametrize("how", ["answer", "receipt"])
async def test_what_waits_for_who_says_stop_is_not_sent(tmp_path: Path, how: str) -> None:
    """The next one of the campaign is in the queue already."""
    async with (
        open_sandbox() as sandbox,
        open_scene(tmp_path, sandbox, phone=True, channels=["sms"]) as scene,
    ):
        desk = scene.notifier.core.desk
        sandbox.inject(Fault(channel="twilio", status=429, retry_after_s=300, times=1))
        waiting = await scene.send("ad 1")
        await scene.until(waiting, lambda row: row.state == "queued" and row.attempt == 1)
        await desk.put_provider(APP, "twilio", sandbox.configs().twilio)  # whose pace is its own again
        if how == "answer":
            sandbox.inject(Fault(channel="twilio", status=400, code="21610", times=1))
        said = await scene.send("ad 2")
        await scene.closed(said)
        if how == "receipt":
            await scene.told(said, "complained", action="suppress")
        row = await scene.closed(waiting)
        assert (row.state, row.code) == ("skipped", "address_gone")
        assert ("choose", "drop", "retired") in await scene.notifier.rules(waiting)


async def others_with(scene: Scene, address: str, count: int = 3) -> list[Device]:
    """Users of other partitions who have the same number."""
    others: list[Device] = []
    taken = {partition_of(scene.user_id)}
    for number in range(1_000):
        other = await scene.notifier.world.person(f"other{number}")
        if len(others) < count and partition_of(other.user_id) not in taken:
            taken.add(partition_of(other.user_id))
            await other.do(notify_commands.RegisterPush(channel="sms", address=address))
            others.append(other)
        other.disconnect()
        if len(others) == count:
            break
    return others


async def until_stopped(scene: Scene, device_key: str, count: int) -> None:
    """Wait until so many users' partitions know it, and nothing more is owed to them."""
    store = scene.notifier.world.store
    while True:
        rows = await store.find(NotifyDeviceRow, {"app_id": APP, "channel": "sms"})
        stopped = [row for row in rows if row.device_key == device_key and row.retired_at_ms]
        if len(stopped) == count and not await store.find(Tell, {}):
            return
        await trio.sleep(0.005)


@pytest.mark.parametrize("how", ["answer", "receipt"])
async def test_stop_from_a_number_holds_for_all_who_have_it(tmp_path: Path, how: str) -> None:
    """A family shares it: what waits for the others is not sent either, nor anything that comes."""
    async with open_sandbox() as sandbox:
        async with open_scene(tmp_path, sandbox, phone=True, channels=["sms"]) as scene:
            desk = scene.notifier.core.desk
            others = await others_with(scene, PHONE)
            key = device_key("sms", PHONE)
            waiting = []
            for other in others:
                sandbox.inject(Fault(channel="twilio", status=429, retry_after_s=300, times=1))
                asked = NotifyRequest(type="t", user_id=other.user_id, text="ad 1")
                waiting.append((await scene.notifier.notify(asked)).items[0].notification_id)
                await scene.until(waiting[-1], lambda row: row.state == "queued" and row.attempt == 1)
                await desk.put_provider(APP, "twilio", sandbox.configs().twilio)  # its pace is its own again
            if how == "answer":
                sandbox.inject(Fault(channel="twilio", status=400, code="21610", times=1))
            said = await scene.send("ad 2")
            await scene.closed(said)
            if how == "receipt":
                await scene.told(said, "complained", action="suppress")
            await until_stopped(scene, key, 1 + len(others))
            sent = sandbox.count("twilio")
            for notification_id in waiting:
                row = await scene.closed(notification_id)
                assert (row.state, row.code) == ("skipped", "address_gone")
            for other in others:
                done = await scene.notifier.notify(
                    NotifyRequest(type="t", user_id=other.user_id, text="ad 3")
                )
                assert done.items[0].state == "dropped"
            assert sandbox.count("twilio") == sent
            # Who asks for messages again gets them, and nobody else.
            await others[0].do(notify_commands.RegisterPush(channel="sms", address=PHONE, opt_in=True))
        async with open_scene(tmp_path, sandbox, is_new=False) as scene:
            for other, state in zip(others, ("open", "dropped", "dropped"), strict=True):
                asked = NotifyRequest(type="t", user_id=other.user_id, text="ad 4")
                assert (await scene.notifier.notify(asked)).items[0].state == state


async def test_a_stop_reaches_the_others_also_after_a_crash(tmp_path: Path) -> None:
    """What is owed to their partitions is stored with the STOP itself."""
    async with open_sandbox() as sandbox:
        async with open_scene(tmp_path, sandbox, phone=True, channels=["sms"]) as scene:
            await others_with(scene, PHONE, 1)
            key = device_key("sms", PHONE)
            row = SuppressionRow(app_id=APP, device_key=key, kind="stopped", code="21610", at_ms=2**42)
            tell = Tell(
                tell_id="t",
                shard=notify_address(scene.user_id).shard,
                kind=notify_address(scene.user_id).kind,
                target_id=notify_address(scene.user_id).id,
                body=encode_tell(AddressStopped(APP, key)),
                at_ms=1,
            )
            await scene.notifier.world.store.commit([Put(row), Put(tell)])  # as a crash would leave it
        async with open_scene(tmp_path, sandbox, is_new=False) as scene:
            await until_stopped(scene, key, 2)


async def test_an_opt_in_just_after_a_stop_holds(tmp_path: Path) -> None:
    """A word of the STOP that comes late must not undo it; a registration that is none is stopped."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox, channels=["sms"]) as scene:
        world = scene.notifier.world
        key = device_key("sms", PHONE)
        late = StopAddress(APP, (scene.user_id,), key, "21610", at_ms=1)
        await scene.do(notify_commands.RegisterPush(channel="sms", address=PHONE, opt_in=True))
        await world.core.router.ask(notify_address(scene.user_id), late, timeout_s=5)
        await scene.closed(await scene.send("wanted"))
        assert sandbox.count("twilio") == 1
        row = SuppressionRow(app_id=APP, device_key=key, kind="stopped", code="21610", at_ms=1)
        await world.store.commit([Put(row)])  # stopped, while the registration was under way elsewhere
        await world.core.router.ask(notify_address(scene.user_id), late, timeout_s=5)
        await dropped(scene, "sms", "21610")


async def test_a_list_that_is_imported_again_brings_nobody_back(tmp_path: Path) -> None:
    """As a shop does it every night, through the importer itself."""
    async with open_sandbox() as sandbox, open_scene(tmp_path, sandbox, channels=["email"]) as scene:
        world, core = scene.notifier.world, scene.notifier.core
        importer = Importer(
            world.store,
            Directory(world.store),
            core.desk,
            world.core.router,
            take_away=nothing,
            update=nothing,
        )

        async def import_list() -> None:
            raw = f"user_id,channel,address\n{scene.user_id},email,{MAIL}\n".encode()
            reports = [one async for one in importer.run(APP, "addresses", open_file(raw, "csv"))]
            assert (reports[-1].done, reports[-1].failed) == (1, 0)

        await import_list()
        sandbox.inject(Fault(channel="smtp", at="rcpt", status=550, code="5.1.1 no such user", times=1))
        await scene.closed(await scene.send("hello"))
        await import_list()
        await dropped(scene, "email", "550")
        assert sandbox.count("smtp") == 0
