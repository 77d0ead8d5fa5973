"""What an operator is shown, and what counts as a problem."""

from pathlib import Path

import msgspec
import pytest
import trio

from protocol.errors import StorageUnavailable
from protocol.http import ClusterMember, ClusterView
from protocol.records import NodeLease, ShardOwner
from server.launch.orders import NodeState, State
from server.launch.roll import share_of
from server.launch.status import ask_nodes, http_url, look_up_state, put_together
from storage import open_store
from storage.glance import Glance, glance
from storage.locks import WriteLock


def lease(node_id: str, *, boot: int = 1, left_ms: int = 9000, is_draining: bool = False) -> NodeLease:
    return NodeLease(
        node_id=node_id,
        boot=boot,
        address=f"{node_id}:1",
        lease_left_ms=left_ms,
        is_draining=is_draining,
    )


def shards(*owners: tuple[str, int, int]) -> list[ShardOwner]:
    return [ShardOwner(index, owner, boot, epoch, 0) for index, (owner, boot, epoch) in enumerate(owners)]


def state(*nodes: NodeState) -> State:
    return State(pid=99, is_ending=False, nodes=list(nodes))


def test_a_cluster_in_order_has_no_problems() -> None:
    """`hubbub cluster status || notify`."""
    seen = Glance([lease("n1"), lease("n2")], shards(("n1", 1, 3), ("n2", 1, 5), ("n2", 1, 7)))
    views = {
        name: ClusterView(node_id=name, boot=1, presence_digest="d", connection_count=3)
        for name in ("n1", "n2")
    }
    made = put_together(
        seen, state(NodeState(node_id="n1", phase="up"), NodeState(node_id="n2", phase="up")), views
    )
    assert made.problems == []
    assert (made.launcher_pid, made.unowned_count, made.is_presence_agreed) == (99, 0, True)
    second = made.nodes[1]
    assert (second.shard_count, second.epoch_min, second.epoch_max, second.connection_count) == (2, 5, 7, 3)


def test_a_dead_node_and_its_shards_are_told() -> None:
    """Its rows still name it as the owner; its lease says otherwise."""
    seen = Glance([lease("n1"), lease("n2", left_ms=0)], shards(("n1", 1, 3), ("n2", 1, 5)))
    down = NodeState(node_id="n2", phase="waiting", is_crash_looping=True, last_exit="SIGKILL")
    made = put_together(
        seen, state(NodeState(node_id="n1", phase="up"), down), {"n1": ClusterView(node_id="n1")}
    )
    assert made.nodes[1].state == "crash loop"
    assert made.unowned_count == 1
    assert made.problems == [
        "n2 is not up (crash loop); it ended last by SIGKILL.",
        "1 shards have no owner.",
    ]


def test_nodes_without_a_launcher_are_shown_by_their_leases() -> None:
    """systemd may start them; nodes of long ago are nobody's business any more."""
    seen = Glance([lease("n1"), lease("n10", is_draining=True), lease("n2"), lease("old", left_ms=0)], [])
    made = put_together(seen, None, {"n1": ClusterView(node_id="n1", loop_lag_s=0.4)})
    assert [(line.node_id, line.state) for line in made.nodes] == [
        ("n1", "up"),
        ("n2", "up"),
        ("n10", "draining"),
    ]
    assert len(made.problems) == 2  # n1 lags, n2 does not answer
    assert "0.40 s late" in made.problems[0]
    assert put_together(Glance([], []), None, {}).problems == ["No node has a lease."]


def test_a_node_that_the_others_do_not_let_in_is_told() -> None:
    """It has a lease and takes connections, and all that its clients send is refused."""
    seen = Glance([lease("n1"), lease("n2"), lease("n3")], shards(("n1", 1, 3), ("n2", 1, 5)))
    reached = {"n1": ["n1", "n2"], "n2": ["n1", "n2"], "n3": ["n3"]}
    views = {
        name: ClusterView(
            node_id=name,
            members=[ClusterMember(node_id=other, is_reachable=other in others) for other in reached],
        )
        for name, others in reached.items()
    }
    problems = put_together(seen, None, views).problems
    assert [problem.partition(":")[0] for problem in problems] == [
        "n1 does not reach n3",
        "n2 does not reach n3",
        "n3 does not reach n1, n2",
    ]
    alone = {"n1": views["n1"], "n2": ClusterView(node_id="n2")}  # it is just opening its lanes
    assert put_together(Glance([lease("n1"), lease("n2")], []), None, alone).problems == []


def test_presence_is_agreed_on_when_the_digests_are_equal() -> None:
    """It differs for moments while people come and go; for long, it is a bug."""
    views = {name: ClusterView(node_id=name, presence_digest=name) for name in ("n1", "n2")}
    assert put_together(Glance([], []), None, views).is_presence_agreed is False
    assert put_together(Glance([], []), None, {"n1": views["n1"]}).is_presence_agreed is None


def test_a_share_is_judged_by_living_owners_only() -> None:
    """A rolling restart goes on when a node has its part, and not before."""
    members = [lease("n1", boot=2), lease("n2")]
    rows = [("n1", 2, 1)] * 9 + [("n2", 1, 1)] * 11
    enough = share_of("n1", Glance(members, shards(*rows)))
    assert (enough.is_enough, enough.owned_count, enough.fair_count) == (True, 9, 10)
    few = share_of("n1", Glance(members, shards(*[("n1", 2, 1)] * 8, *[("n2", 1, 1)] * 12)))
    assert not few.is_enough
    earlier_life = share_of("n1", Glance(members, shards(*[("n1", 1, 1)] * 4, *[("n2", 1, 1)] * 6)))
    assert (earlier_life.is_enough, earlier_life.owned_count, earlier_life.unowned_count) == (False, 0, 4)
    assert "4 have no owner" in str(earlier_life)
    leaving = share_of("n1", Glance([lease("n1", boot=2), lease("n2", is_draining=True)], shards(*rows)))
    assert leaving.fair_count == 20


async def test_a_glance_needs_no_lock_and_tells_what_the_store_does(tmp_path: Path) -> None:
    """`status` beside a node that is frozen with the write lock in its hands."""
    with pytest.raises(StorageUnavailable):
        glance(tmp_path)
    async with open_store(tmp_path) as store:
        boot = await store.register_node("n1", "h:1", lease_ms=60_000)
        assert await store.claim({3: 0}, node_id="n1", boot=boot)
        with WriteLock(tmp_path).held():  # closed with the process
            seen = await trio.to_thread.run_sync(glance, tmp_path)
        assert [member.node_id for member in seen.members] == ["n1"]
        assert seen.shards == await store.shards()
    assert glance(tmp_path).shards[3].owner == "n1"
    assert look_up_state(tmp_path) is None


def test_addresses_of_nodes_are_those_of_their_http_api() -> None:
    """Nodes tell each other where their WebSocket is."""
    assert http_url("wss://chat.example.com/ws") == "https://chat.example.com"
    assert http_url("ws://127.0.0.1:8090/ws") == "http://127.0.0.1:8090"
    assert http_url("javascript:alert(1)") == http_url("http://[") == ""


async def test_nodes_are_found_from_one_of_them_and_see_no_token() -> None:
    """A program that sits on a port of this machine is not to learn the admin token."""
    heads: list[bytes] = []
    listeners = {name: (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0] for name in ("n1", "n2")}
    urls = {name: f"127.0.0.1:{one.socket.getsockname()[1]}" for name, one in listeners.items()}

    async def answer(name: str, stream: trio.SocketStream) -> None:
        async with stream:
            heads.append(bytes(await stream.receive_some(4096)))
            members = [
                ClusterMember(node_id="n2", url=f"ws://{urls['n2']}/ws"),
                ClusterMember(node_id="n3", url="ws://127.0.0.1:1/ws"),  # nobody is there
                ClusterMember(node_id="n4", url="wss://elsewhere.example/ws"),
            ]
            body = msgspec.json.encode(ClusterView(node_id=name, members=members))
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for name, listener in listeners.items():

                async def handle(stream: trio.SocketStream, name: str = name) -> None:
                    await answer(name, stream)

                nursery.start_soon(trio.serve_listeners, handle, [listener])
            views = await ask_nodes([f"http://{urls['n1']}"], "a secret admin token")
            nursery.cancel_scope.cancel()
    assert sorted(views) == ["n1", "n2"]
    assert len(heads) == 2
    assert b"secret" not in b"".join(heads)
