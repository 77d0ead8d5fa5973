"""What may come to an open cluster port besides nodes: it is refused, counted, and harms nothing."""

import os
from pathlib import Path

import msgspec
import pytest
import trio
from structlog.testing import capture_logs

from cluster.envelope import FORMAT, MAX_FRAME_BYTES, Envelope, Hello, Seal
from cluster.lanes import Lane, PeerAddress
from cluster.nng_socket import RECONNECT_MIN_S, PushSocket
from tests.cluster.certificates import Authority
from tests.cluster.lane_nodes import HOST, SECRET, LaneNode, running
from tests.cluster.lane_proxy import LaneProxy

pytestmark = pytest.mark.timeout(60)

SP_GREETING = b"\x00SP\x00\x00\x50\x00\x00"  # of a Push0 over TCP (SP mapping for TCP, section 3)


async def send_raw(port: int, frame: bytes) -> None:
    """Send one message as another program with nng would."""
    socket = PushSocket(None, HOST, port)
    try:
        with trio.fail_after(10):
            while not socket.send_nowait(frame):
                await socket.wait_writable()
            await socket.wait_writable()
    finally:
        socket.close()


async def check_traffic(ann: LaneNode, bob: LaneNode, count: int = 50) -> None:
    """Items go from one to the other, in order and none missing."""
    before = len(bob.items)
    gaps = list(bob.gaps)
    for n in range(count):
        assert ann.lanes.send_nowait("bob", Lane.DATA, b"%d" % n)
        assert ann.lanes.send_nowait("bob", Lane.CONTROL, b"c%d" % n)
        await trio.lowlevel.checkpoint()
    await bob.until(lambda: len(bob.items) == before + 2 * count)
    mine = [item for lane, _, _, item in bob.items[before:] if lane is Lane.DATA]
    assert mine == [b"%d" % n for n in range(count)]
    assert bob.gaps == gaps
    assert ann.lanes.is_reachable("bob")
    assert bob.lanes.is_reachable("ann")


@pytest.mark.parametrize("secret", [b"another secret", b""])
async def test_a_node_with_another_secret_is_refused_and_counted(secret: bytes) -> None:
    """The secret alone decides who is a node, where there are no certificates."""
    ann, bob = LaneNode("ann", meets=True), LaneNode("bob", meets=True)
    eve = LaneNode("eve", secret=secret, meets=True)
    async with running(ann, bob):
        with capture_logs() as logs:
            async with running(eve, connected=False):
                eve.lanes.connect(bob.address)
                eve.lanes.greet(bob.address.host, bob.address.port)
                eve.lanes.send_nowait("bob", Lane.DATA, b"from eve")
                # Each attempt is hung up on, and nng makes another one.
                await bob.until(lambda: bob.lanes.refused().get("tag", 0) >= 3)
                await check_traffic(ann, bob)
                assert not eve.lanes.is_reachable("bob")
                assert {address.node_id for address in bob.hellos} == {"ann"}
                assert eve.hellos == []
                assert bob.texts(sender="eve") == []
        refused = [entry for entry in logs if entry["event"] == "envelope_refused"]
        assert [entry["reason"] for entry in refused] == ["tag"]  # one line, however often it happens


async def test_garbage_half_open_connections_and_foreign_messages_harm_nothing() -> None:
    """A port scanner, a browser at the wrong port, and whoever means harm without knowing the secret."""
    ann, bob = LaneNode("ann"), LaneNode("bob")
    async with running(ann, bob), trio.open_nursery() as nursery:
        streams = []
        for port in (bob.address.port, bob.address.data_port):
            for opening in (
                b"",
                b"GET / HTTP/1.1\r\nHost: bob\r\n\r\n",
                b"\x16\x03\x01" + os.urandom(500),
                os.urandom(10_000),
                SP_GREETING[:5],
                SP_GREETING,
                SP_GREETING + b"\x00\x00",
                SP_GREETING + b"\xff" * 8,  # a message of 16 EiB
                SP_GREETING + (MAX_FRAME_BYTES + 1).to_bytes(8, "big") + b"x" * 100_000,
                SP_GREETING + (500_000).to_bytes(8, "big") + b"x" * 1_000,  # and the rest never comes
            ):
                stream = await trio.open_tcp_stream(HOST, port)
                streams.append(stream)
                if opening:
                    await stream.send_all(opening)
            nursery.start_soon(send_raw, port, b"")
            nursery.start_soon(send_raw, port, b"x")
            nursery.start_soon(send_raw, port, os.urandom(1_000))
            nursery.start_soon(send_raw, port, b"x" * MAX_FRAME_BYTES)
            nursery.start_soon(send_raw, port, Seal(SECRET).close(_envelope())[:-1])
            nursery.start_soon(send_raw, port, b"HBL\x07" + os.urandom(100))
        await check_traffic(ann, bob)
        await bob.until(lambda: bob.lanes.refused().get("not_ours", 0) >= 8)
        await bob.until(lambda: bob.lanes.refused().get("tag", 0) >= 2)
        await bob.until(lambda: bob.lanes.refused().get("version", 0) >= 2)
        await bob.until(lambda: bob.lanes.refused().get("handshake_in", 0) >= 2)
        await check_traffic(ann, bob)
        for stream in streams:
            await stream.aclose()
        await check_traffic(ann, bob)


def _envelope(
    lane_seq: int = 1, *, boot: int = 1, session: int = 1, receiver_session: int = 1, lane: Lane = Lane.DATA
) -> Envelope:
    return Envelope(FORMAT, "eve", boot, session, "bob", 1, receiver_session, lane, lane_seq, 0, 0, [b"item"])


async def test_a_recorded_envelope_is_worth_nothing() -> None:
    """Without TLS, whoever sits between two nodes can record what they say."""
    bob = LaneNode("bob")
    seal = Seal(SECRET)
    async with running(bob):
        data_port = bob.address.data_port
        judged: list[Envelope] = []
        my_session = bob.lanes._session  # as an earlier envelope of bob's told it
        for lane_seq, session, receiver_session in (
            (1, 7, my_session),
            (1, 7, my_session),  # twice
            (2, 7, my_session - 2),  # recorded before bob's lanes were opened
            (1, 8, my_session),  # eve's lanes were opened anew
            (2, 7, my_session),  # late from the former run
        ):
            frame = _envelope(lane_seq, session=session, receiver_session=receiver_session)
            await send_raw(data_port, seal.close(frame))
            judged.append(frame)
            await bob.until(lambda: sum(bob.lanes.refused().values()) + len(bob.items) == len(judged))
        assert bob.lanes.refused() == {"replayed": 1, "stale_receiver": 1, "old_session": 1}
        assert bob.texts() == [b"item"] * 2
        assert bob.gaps == [("eve", 1)] * 2


async def test_a_hello_with_an_address_that_is_none_is_refused_or_leads_nowhere() -> None:
    """Whoever has the secret may still be wrong; a node must not fall over it."""
    ann, bob = LaneNode("ann"), LaneNode("bob", meets=True)
    async with running(ann, bob):
        for host, port in (
            ("", 1),
            ("x" * 300, 1),
            (HOST, 0),
            (HOST, 2**40),
            ("no such host!", 9),
            ("::1", 9),
        ):
            await send_raw(
                bob.address.port,
                Seal(SECRET).close(Hello(FORMAT, "eve", 1, 1, "", 0, 0, host, port, port)),
            )
        await bob.until(
            lambda: [at.host for at in bob.hellos if at.node_id == "eve"] == ["no such host!", "::1"]
        )
        await bob.until(lambda: bob.lanes.refused().get("malformed") == 4)
        bob.lanes.connect(PeerAddress("far", 1, "[", 1, 1))
        bob.lanes.greet("]:[", 99)
        await check_traffic(ann, bob)


async def test_nodes_talk_over_tls_when_both_have_a_certificate_of_their_authority(tmp_path: Path) -> None:
    """What members say to each other crosses the net between hosts."""
    authority = Authority(tmp_path, "cluster")
    ann = LaneNode("ann", tls=authority.issue("ann"), meets=True)
    bob = LaneNode("bob", tls=authority.issue("bob"), meets=True)
    async with running(ann, bob, connected=False):
        ann.lanes.greet(bob.address.host, bob.address.port)
        await ann.until_up(bob)
        await bob.until_up(ann)
        await check_traffic(ann, bob, 2_000)
        assert ann.lanes.refused() == bob.lanes.refused() == {}


async def test_a_handshake_with_a_far_host_is_given_its_time(tmp_path: Path) -> None:
    """Ends that hang up on each other amid a handshake count intruders that are none."""
    authority = Authority(tmp_path, "cluster")
    ann, bob = (LaneNode(name, tls=authority.issue(name)) for name in ("ann", "bob"))
    async with running(ann, bob, connected=False) as nursery:
        control, data = [
            await LaneProxy.open(port, nursery) for port in (bob.address.port, bob.address.data_port)
        ]
        control.delay_s = data.delay_s = 1.5 * RECONNECT_MIN_S
        ann.lanes.connect(msgspec.structs.replace(bob.address, port=control.port, data_port=data.port))
        bob.lanes.connect(ann.address)
        await ann.until_up(bob)
        await bob.until_up(ann)
        assert (control.connections, data.connections) == (1, 1)
        assert ann.lanes.refused() == bob.lanes.refused() == {}


@pytest.mark.parametrize("fault", ["other authority", "trusts another", "other host", "no tls"])
async def test_a_node_without_a_right_certificate_is_refused_and_counted(fault: str, tmp_path: Path) -> None:
    """Even if it has the secret: each of them protects for itself."""
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    tls = {
        "other authority": theirs.issue("eve-1", trusts=ours),
        "trusts another": ours.issue("eve-2", trusts=theirs),
        "other host": ours.issue("eve-3", host="elsewhere.example"),
        "no tls": None,
    }[fault]
    ann, bob = (LaneNode(name, tls=ours.issue(name), meets=True) for name in ("ann", "bob"))
    eve = LaneNode("eve", tls=tls, meets=True)
    async with running(ann, bob):
        async with running(eve, connected=False):
            eve.lanes.connect(bob.address)
            bob.lanes.connect(eve.address)
            eve.lanes.greet(bob.address.host, bob.address.port)
            if fault == "other host":
                # Its own certificate is shown by whoever is dialled: bob finds out and hangs up.
                await bob.until(lambda: bob.lanes.refused().get("tls_out", 0) >= 2)
            else:
                await bob.until(lambda: bob.lanes.refused().get("tls_in", 0) >= 2)
            await check_traffic(ann, bob)
            assert not bob.lanes.is_reachable("eve")
            assert not eve.lanes.is_reachable("bob")
            assert eve.items == []
            assert bob.texts(sender="eve") == []
        await check_traffic(ann, bob)


async def test_garbage_on_a_tls_port_harms_nothing(tmp_path: Path) -> None:
    """What comes to an open port need not speak TLS, or not to its end."""
    authority = Authority(tmp_path, "cluster")
    ann, bob = (LaneNode(name, tls=authority.issue(name)) for name in ("ann", "bob"))
    async with running(ann, bob):
        streams = []
        for port in (bob.address.port, bob.address.data_port):
            for opening in (
                b"",
                b"GET / HTTP/1.1\r\n\r\n",
                os.urandom(5_000),
                SP_GREETING * 10,
                b"\x16\x03\x01",
            ):
                stream = await trio.open_tcp_stream(HOST, port)
                streams.append(stream)
                if opening:
                    await stream.send_all(opening)
        await bob.until(lambda: bob.lanes.refused().get("tls_in", 0) >= 2)  # one of each port, at least
        await check_traffic(ann, bob)
        for stream in streams:
            await stream.aclose()
        await check_traffic(ann, bob)
