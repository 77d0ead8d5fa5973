"""`hubbub explain` and its kin: what an operator asks at the command line."""

from pathlib import Path

import pytest
import trio

from protocol import notify_commands
from protocol.notify_content import NotifyRequest
from server import cli
from server.sandbox.faults import Fault
from server.sandbox.sandbox import open_sandbox
from tests.server.notify.notify_world import open_notifier


async def _one_that_failed(directory: Path) -> int:
    async with open_sandbox() as sandbox, open_notifier(directory, sandbox) as notifier:
        ann = await notifier.world.person("ann")
        await notifier.has_apns(ann, 1)
        await ann.do(notify_commands.ListPush())
        ann.disconnect()
        sandbox.inject(Fault(channel="apns", status=400, code="BadTopic", times=1))
        done = await notifier.notify(NotifyRequest(type="contact", user_id=ann.user_id, text="x"))
        await notifier.settled(done.items[0].notification_id)
        return done.items[0].notification_id


def test_explain_tells_every_stage_and_every_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Support asks this while a user is on the phone."""
    notification_id = trio.run(_one_that_failed, tmp_path)
    assert cli.main(["explain", str(notification_id), "--data-dir", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    for word in ("decided", "deduplicate", "enqueue", "attempt", "refused", "BadTopic", "apns to"):
        assert word in told, told
    assert cli.main(["notify", "dead", "--data-dir", str(tmp_path)]) == 0
    assert "BadTopic" in capsys.readouterr().out
    assert cli.main(["notify", "queues", "--data-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""
    assert cli.main(["explain", "x", "--data-dir", str(tmp_path)]) == 1
    assert "is no notification's id" in capsys.readouterr().err
    assert cli.main(["explain", "12345", "--data-dir", str(tmp_path)]) == 1
    assert "There is no notification" in capsys.readouterr().err
