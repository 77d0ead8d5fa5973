"""W7: when 2,000 devices drop at once and come back, how long is it until all of them are current?

40 groups of 50 users with one device each, all connected, and in each group one sender who stays. All 2,000
devices drop without a word; while they are away 20 messages of 100 bytes are posted to each group. Then all
come back, so many connects under way at once as the variant says (a connect is under way until its welcome),
and each catches up as a real client does: hello with its cursors, the welcome's heads, then sync after its
cursor until it has everything, of its inbox too where that has news.

Time of one device: from its first connect until it is current; an overloaded server may have asked it to come
again after 2 s. The storm lasts as long as it lasts: `seconds` is not used. Verified: each device has exactly
the 20 messages that it missed, once each and in order.
"""

from collections import Counter
from collections.abc import Sequence
from secrets import token_hex
from typing import Final

from bench.load.client import Account, Connection, as_dict, ask_all, open_all
from bench.load.loop import Loop, now
from bench.load.meter import Meter, calm
from bench.load.trial import Samples, Setting, Trial, Workload, close_all, measured
from bench.load.wires import Got, WireFormat
from bench.report.results import Figure
from protocol.commands import CreateGroup, Send, Sync, SyncInbox

GROUP_COUNT: Final = 40
GROUP_SIZE: Final = 50
MISSED_COUNT: Final = 20
TEXT: Final = "x" * 100
GONE_S: Final = 0.5  # for the server to see that all are gone, before it is asked for anything else
STORM_TIMEOUT_S: Final = 120.0


class Device(Connection):
    """One device in one group: keeps what it was told, and syncs what it has missed."""

    def __init__(
        self,
        loop: Loop,
        wire: WireFormat,
        address: tuple[str, int],
        account: Account,
        samples: Samples,
    ) -> None:
        super().__init__(loop, wire, address, account)
        self.samples = samples
        self.client_ids: list[str] = []  # of the messages in the order in which it got them
        self.errors: list[str] = []
        self.is_current = True
        self.first_try_at = 0.0  # since it dropped
        self._open_count = 0  # streams that are being synced

    def drop(self) -> None:
        """Lose the connection; what was told so far is what the device has."""
        self.close()
        self.client_ids.clear()
        self.first_try_at = 0.0
        self.is_current = False

    def open(self) -> None:
        super().open()
        self.first_try_at = self.first_try_at or self.started_at

    def welcomed(self) -> None:
        if self.is_current:
            return  # the first time there is nothing to catch up
        for head in self.welcome.get("heads", ()):
            conversation_id = head["conversation_id"]
            if head["head"] > self.cursors.get(conversation_id, 0):
                self._open_count += 1
                self._sync(conversation_id)
        if self.welcome.get("inbox_head", 0) > self.inbox_cursor:
            self._open_count += 1
            self._sync("")
        if not self._open_count:
            self.errors.append("no heads")
            self._finish()

    def got(self, got: Got, payload: bytes, at: float) -> None:
        if got.type == "message":
            self._take(got.conversation_id, got.seq, got.client_id)
        elif got.type == "created":
            self.cursors[got.conversation_id] = got.seq
        elif got.type == "conversation_added":
            self.inbox_cursor = got.seq
        elif got.type in ("resync", "error"):
            self.errors.append(f"{got.type} {got.code}")

    def ended(self) -> None:
        if not self.is_shed:
            self.errors.append(f"closed: {self.error}")

    def _take(self, conversation_id: str, seq: int, client_id: str) -> None:
        if seq != self.cursors.get(conversation_id, 0) + 1:
            self.errors.append("hole")
        self.cursors[conversation_id] = seq
        self.client_ids.append(client_id)

    def _sync(self, conversation_id: str) -> None:
        """Ask for the next page of one stream; the empty one is the inbox."""
        if conversation_id:
            after = self.cursors.get(conversation_id, 0)
            self.ask(Sync(conversation_id=conversation_id, after=after), self._synced)
        else:
            self.ask(SyncInbox(after=self.inbox_cursor), self._synced)

    def _synced(self, payload: bytes) -> None:
        page = as_dict(payload, self.wire)
        if page["type"] != "events":
            self.errors.append(f"sync: {page.get('code')}")
        conversation_id = page.get("conversation_id", "")
        for item in page.get("items", ()):
            if not conversation_id:
                self.inbox_cursor = item["seq"]
            elif item["type"] == "message":
                self._take(conversation_id, item["seq"], item["client_id"])
            else:
                self.cursors[conversation_id] = item["seq"]
        if page.get("more"):
            self._sync(conversation_id)
            return
        self._open_count -= 1
        if not self._open_count:
            self._finish()

    def _finish(self) -> None:
        self.is_current = True
        at = now()
        self.samples.add(at, at - self.first_try_at)


class Group:
    """One sender who stays, and the devices that drop."""

    def __init__(self, sender: Device, devices: list[Device]) -> None:
        self.sender = sender
        self.devices = devices
        self.conversation_id = ""

    def post(self, client_id: str) -> tuple[Device, Send]:
        """What the sender has to ask for to post one more."""
        return self.sender, Send(conversation_id=self.conversation_id, client_id=client_id, text=TEXT)


def judge(client_ids: Sequence[str], wanted: Sequence[str]) -> str:
    """Say what is wrong with what a device has got; empty if it is exactly what it missed."""
    if list(client_ids) == list(wanted):
        return ""
    counts, expected = Counter(client_ids), Counter(wanted)
    if expected - counts:
        return "missing"
    return "doubled" if counts - expected else "out of order"


def run(setting: Setting, variant: str) -> Trial:
    """Run one variant: "N connects at once"."""
    at_once = int(variant.split()[0])
    loop, samples = Loop(), Samples()
    groups = _groups(setting, loop, samples)
    devices = [device for group in groups for device in group.devices]
    everybody = [*devices, *(group.sender for group in groups)]
    prefix = token_hex(4)
    _let_all_hear(loop, groups, f"{prefix}-first")
    for device in devices:
        device.drop()
    loop.run_for(GONE_S)
    wanted = [f"{prefix}-{number}" for number in range(MISSED_COUNT)]
    for client_id in wanted:  # one after the other in each group: their order is known
        ask_all(loop, [group.post(client_id) for group in groups])
    loop.run_for(GONE_S)
    meter = Meter(setting.target)
    with calm():
        meter.start()
        shed_count = open_all(loop, devices, at_once=at_once, timeout_s=STORM_TIMEOUT_S)
        loop.run_until(
            lambda: all(device.is_current or device.is_closed for device in devices),
            timeout_s=STORM_TIMEOUT_S,
            what="all devices are current",
        )
        meter.stop()
    errors = [error for member in everybody for error in member.errors]
    errors += [fault for device in devices if (fault := judge(device.client_ids, wanted))]
    connect_s = max(device.opened_at for device in devices) - meter.started_at
    close_all(loop, everybody)
    return measured(
        meter,
        variant=variant,
        figures=[
            Figure(
                name="all current", value=meter.seconds, unit="s", is_higher_better=False, is_headline=True
            ),
            Figure(name="connects", value=len(devices) / connect_s, unit="/s"),
            Figure(name="caught up", value=len(devices) * MISSED_COUNT / meter.seconds, unit="/s"),
            *(
                [Figure(name="server CPU", value=meter.server_cpu_s, unit="s", is_higher_better=False)]
                if meter.knows_costs
                else []
            ),
        ],
        samples={"one device": samples},
        errors=errors,
        findings=[
            f"{len(devices):,} devices came back; each has its {MISSED_COUNT} missed messages once, in order"
            if not errors
            else f"errors: {dict(Counter(errors))}"
        ],
        is_sound=not errors,
        notes=[f"{shed_count} connects were refused as too many, and tried again"] if shed_count else [],
    )


def _groups(setting: Setting, loop: Loop, samples: Samples) -> list[Group]:
    """Connect everybody and make the groups."""
    count = setting.scaled(GROUP_COUNT, least=1)

    def device(number: int, name: str) -> Device:
        return Device(loop, setting.wire, setting.address(number), setting.target.account(name), samples)

    groups = [
        Group(
            device(number, f"sender{number}"),
            [device(number + place, f"member{number}-{place}") for place in range(1, GROUP_SIZE + 1)],
        )
        for number in range(count)
    ]
    open_all(loop, [member for group in groups for member in (group.sender, *group.devices)])
    creations = [
        (
            group.sender,
            CreateGroup(
                client_id=token_hex(8), title="Storm", member_ids=[device.user_id for device in group.devices]
            ),
        )
        for group in groups
    ]
    for group, answer in zip(groups, ask_all(loop, creations), strict=True):
        group.conversation_id = answer["conversation"]["conversation_id"]
    loop.run_for(GONE_S)  # what the new groups tell their members
    return groups


def _let_all_hear(loop: Loop, groups: Sequence[Group], client_id: str) -> None:
    """Post one message to each group, so that each device has a cursor in it."""
    ask_all(loop, [group.post(client_id) for group in groups])
    loop.run_until(
        lambda: all(device.client_ids for group in groups for device in group.devices),
        timeout_s=STORM_TIMEOUT_S,
        what="all devices hear their group",
    )


WORKLOAD: Final = Workload(
    name="W7",
    title=f"reconnect storm: {GROUP_COUNT * GROUP_SIZE:,} devices, {MISSED_COUNT} missed messages each",
    variants=("64 connects at once", "256 connects at once"),
    run=run,
)
