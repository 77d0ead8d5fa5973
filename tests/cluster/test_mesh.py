"""Items find their way round a broken lane, and nothing that comes in harms the task that brings it."""

import msgspec
import pytest
import trio
from trio.testing import MockClock

from actors.messages import Wake
from cluster import wire
from cluster.lanes import Lane, PeerAddress
from cluster.mesh import OPENING_S, Mesh


class Lanes:
    """Lanes that keep what they are given; fits cluster.mesh.LaneSet."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Lane, wire.AnyItem]] = []
        self.up: set[str] = set()
        self.is_full = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        raise NotImplementedError

    def connect(self, peer: PeerAddress) -> None:
        raise NotImplementedError

    def disconnect(self, node_id: str) -> None:
        raise NotImplementedError

    def greet(self, host: str, port: int, data_port: int) -> None:
        raise NotImplementedError

    def send_nowait(self, node_id: str, lane: Lane, item: bytes) -> bool:
        if not self.is_full:
            self.sent.append((node_id, lane, wire.decode(item)))
        return not self.is_full

    def is_reachable(self, node_id: str) -> bool:
        return node_id in self.up

    def refused(self) -> dict[str, int]:
        return {}


class Meshed:
    """A mesh of node n1 that knows n2 and n3."""

    def __init__(self) -> None:
        self.lanes = Lanes()
        self.got: list[tuple[str, int, wire.AnyItem]] = []
        self.mesh = Mesh("n1", lambda node_id, boot, item: self.got.append((node_id, boot, item)))
        self.mesh.open(self.lanes, 5)
        for node_id in ("n2", "n3"):
            self.mesh.set_alive(node_id, 1)

    def receive(self, node_id: str, *payloads: bytes) -> None:
        self.mesh.received(Lane.DATA, node_id, 1, list(payloads))


HINT = wire.Hint("user", "u", Wake())


async def test_a_broken_way_is_gone_round_where_there_is_another(autojump_clock: MockClock) -> None:
    """Also one that never opened; where there is none, senders of calls know at once."""
    meshed = Meshed()
    mesh, lanes = meshed.mesh, meshed.lanes
    assert mesh.next_hop("n2") == "n2"  # it is only just opening
    lanes.up = {"n3"}
    mesh.set_reach("n3", ["n1", "n2"])
    await trio.sleep(OPENING_S)
    assert mesh.next_hop("n2") == "n3"
    assert mesh.send("n2", HINT)
    hop, _, item = lanes.sent[-1]
    assert isinstance(item, wire.Relayed)
    assert (hop, item.to, item.origin, item.origin_boot) == ("n3", "n2", "n1", 5)
    assert wire.decode(item.item) == HINT
    mesh.set_reach("n3", ["n1"])
    assert mesh.next_hop("n2") == ""
    assert not mesh.send("n2", HINT)
    lanes.up = {"n2", "n3"}
    assert mesh.next_hop("n2") == "n2"
    lanes.up = {"n3"}
    assert mesh.next_hop("n2") == ""  # it was open: it is broken at once
    mesh.set_alive("n2", None)
    assert (mesh.next_hop("n2"), mesh.send("n2", HINT)) == ("", False)
    mesh.close()
    assert (mesh.next_hop("n3"), mesh.send("n3", HINT)) == ("", False)


async def test_what_is_passed_on_is_passed_on_once(autojump_clock: MockClock) -> None:
    """And only for its origin: nothing goes round in circles."""
    meshed = Meshed()
    relayed = wire.Relayed("n3", "n2", 1, wire.encode(HINT))
    meshed.receive("n2", wire.encode(relayed))
    assert meshed.lanes.sent == [("n3", Lane.DATA, relayed)]
    meshed.receive("n3", wire.encode(relayed))
    assert (len(meshed.lanes.sent), meshed.got) == (1, [])
    meshed.receive("n3", wire.encode(wire.Relayed("n1", "n2", 7, wire.encode(HINT))))
    assert meshed.got == [("n2", 7, HINT)]


async def test_bytes_that_make_no_sense_harm_nothing(autojump_clock: MockClock) -> None:
    """Noise, and items wrapped a thousand times, are counted; what follows them is taken."""
    meshed = Meshed()
    nested = wire.encode(HINT)
    for _ in range(2000):
        nested = wire.encode(wire.Relayed("n1", "n2", 1, nested))
    deep = b"\x91" * 5000 + b"\x00"
    meshed.receive("n2", b"", b"\xc1", b"\x91\xa4call", deep, nested, wire.encode(HINT))
    assert meshed.got == [("n2", 1, HINT)]
    assert meshed.mesh.malformed_count == 5
    assert meshed.lanes.sent == []


@pytest.mark.parametrize("is_relayed", [False, True])
async def test_a_call_that_is_too_new_is_answered(autojump_clock: MockClock, *, is_relayed: bool) -> None:
    """Its sender need not wait in vain while the cluster is upgraded; later fields are skipped."""
    meshed = Meshed()
    call = msgspec.msgpack.encode(["call", 77, "user", "u", 1, {"type": "of_tomorrow"}, True])
    meshed.receive("n2", wire.encode(wire.Relayed("n1", "n2", 1, call)) if is_relayed else call)
    (sent,) = meshed.lanes.sent
    assert sent == ("n2", Lane.DATA, wire.not_understood(77))
    longer = msgspec.msgpack.encode(["answer", 5, None, "a field of tomorrow"])
    meshed.receive("n2", longer)
    assert meshed.got == [("n2", 1, wire.Answer(5, None))]
    assert wire.corr_of_unknown_call(longer) is None
