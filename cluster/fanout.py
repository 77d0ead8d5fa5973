"""Carry events to the sessions that listen, on whatever nodes they are: what actors know as `Fanout`.

This node's hub comes first. Then one item goes to each other node that holds a connection of somebody who is
concerned, encoded once for all of them; the presence directory says which these are. Nothing waits for a
node: what its lane does not take is lost, the receiver notices the gap, and reads from the store.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

from actors.address import Address
from actors.healer import StoreHealer
from actors.hub import Hub
from actors.messages import Place
from cluster import wire
from cluster.router import Placement
from protocol.codec import Encoded
from protocol.events import Event

Key = str | tuple[str, ...]


class Peers(Protocol):
    """The other nodes; cluster.mesh.Mesh fits this."""

    @property
    def node_ids(self) -> Collection[str]:
        """Those that are thought to be alive."""
        ...

    def send_all(self, node_ids: Iterable[str], item: wire.Item) -> None:
        """Queue one item, encoded once, in the data lanes of several nodes."""
        ...


class ClusterFanout:
    """Fits actors.ports.Fanout; `received` takes what other nodes' fan-outs send."""

    def __init__(
        self,
        hub: Hub,
        peers: Peers,
        placement: Placement,
        healer: StoreHealer,
        *,
        node_id: str,
        boot: Callable[[], int],
        nodes_of: Callable[[str], Collection[str]],
    ) -> None:
        """`nodes_of`: the other nodes that hold a connection of that user."""
        self._hub = hub
        self._peers = peers
        self._placement = placement
        self._healer = healer
        self._node_id = node_id
        self._boot = boot
        self._nodes_of = nodes_of
        self._heard: dict[int, int] = {}  # shard -> the highest epoch that has said who hears what

    # -- actors.ports.Fanout ------------------------------------------------------------------------

    def publish(
        self,
        conversation_id: str,
        seq: int,
        encoded: Encoded,
        *,
        to: Collection[str],
        everywhere: bool = False,
        message_count: int = 0,
    ) -> None:
        self._hub.publish(
            conversation_id, seq, encoded, to=to, everywhere=everywhere, message_count=message_count
        )
        if nodes := self._nodes(to):
            item = wire.Publish(conversation_id, seq, _event(encoded), everywhere, message_count)
            self._peers.send_all(nodes, item)

    def publish_live(
        self,
        conversation_id: str,
        key: Key,
        encoded: Encoded,
        *,
        to: Collection[str] | None,
        except_user_id: str = "",
        is_state: bool = False,
    ) -> None:
        self._hub.publish_live(
            conversation_id, key, encoded, to=to, except_user_id=except_user_id, is_state=is_state
        )
        nodes = self._peers.node_ids if to is None else self._nodes(to)
        if nodes:
            item = wire.Live(conversation_id, key, _event(encoded), except_user_id, is_state)
            self._peers.send_all(nodes, item)

    def publish_user(self, user_id: str, seq: int, encoded: Encoded) -> None:
        self._hub.publish_user(user_id, seq, encoded)
        if nodes := self._nodes_of(user_id):
            self._peers.send_all(nodes, wire.PublishUser(user_id, seq, _event(encoded)))

    def publish_user_live(self, user_id: str, key: Key, encoded: Encoded, *, stream: str) -> None:
        self._hub.publish_user_live(user_id, key, encoded, stream=stream)
        if nodes := self._nodes_of(user_id):
            self._peers.send_all(nodes, wire.LiveUser(user_id, key, _event(encoded), stream))

    def publish_post(self, post_id: int, key: Key, encoded: Encoded) -> None:
        self._hub.publish_post(post_id, key, encoded)
        # To all: who shows a post is known to each node alone, and all of them keep its counts.
        if nodes := self._peers.node_ids:
            self._peers.send_all(nodes, wire.PostLive(post_id, key, _event(encoded)))

    def subscribe(self, conversation_id: str, user_ids: Sequence[str]) -> None:
        self._hub.subscribe(conversation_id, user_ids)
        epoch = self._own_epoch(conversation_id, user_ids)
        if nodes := self._nodes(user_ids):
            self._peers.send_all(nodes, wire.Subscribe(conversation_id, epoch, list(user_ids)))

    def unsubscribe(self, conversation_id: str, user_ids: Sequence[str], *, to: Collection[str]) -> None:
        self._hub.unsubscribe(conversation_id, user_ids, to=to)
        epoch = self._own_epoch(conversation_id, user_ids)
        if nodes := self._nodes({*user_ids, *to}):
            self._peers.send_all(nodes, wire.Unsubscribe(conversation_id, epoch, list(user_ids)))

    def resync(self, conversation_id: str, head: int, user_ids: Collection[str]) -> None:
        self._hub.resync(conversation_id, head, user_ids)
        # To all: who was removed just before the crash still hears the conversation somewhere.
        epoch = self._own_epoch(conversation_id, user_ids)
        if nodes := self._peers.node_ids:
            item = wire.Resync(conversation_id, epoch, head, list(user_ids))
            self._peers.send_all(nodes, item)

    def resync_user(self, user_id: str, head: int) -> None:
        self._hub.resync_user(user_id, head)
        if nodes := self._nodes_of(user_id):
            self._peers.send_all(nodes, wire.ResyncUser(user_id, head))

    def is_connected(self, user_id: str) -> bool:
        return self._hub.is_connected(user_id)

    def part(self, user_id: str, other_id: str) -> None:
        self._hub.part(user_id, other_id)
        if nodes := self._nodes((user_id, other_id)):
            self._peers.send_all(nodes, wire.Part(user_id, other_id))

    def close_session(self, user_id: str, session_id: str) -> None:
        self._hub.close_session(user_id, session_id)
        if nodes := self._nodes_of(user_id):
            self._peers.send_all(nodes, wire.CloseSession(user_id, session_id))

    def replace_connection(self, user_id: str, place: Place) -> None:
        if place.node_id != self._node_id:
            self._peers.send_all((place.node_id,), wire.ReplaceConnection(user_id, place))
        elif place.boot == self._boot():
            self._hub.replace_connection(user_id, place)

    def _nodes(self, user_ids: Collection[str]) -> Collection[str]:
        """The other nodes with a connection of any of these users."""
        all_count = len(self._peers.node_ids)
        if not all_count:
            return ()
        nodes: set[str] = set()
        for user_id in user_ids:
            found = self._nodes_of(user_id)
            if found:
                nodes.update(found)
                if len(nodes) >= all_count:
                    break
        return nodes

    def _own_epoch(self, conversation_id: str, user_ids: Iterable[str]) -> int:
        """The epoch to speak by; 0 where the shard has moved on before its former actor could speak.

        Then nobody takes its word for who hears what, this node neither: it may have been overtaken.
        """
        route = self._placement.route_of(Address("conversation", conversation_id).shard)
        if route.node_id == self._node_id:
            return route.epoch
        self._healer.check_users(user_ids)
        return 0

    # -- from other nodes ---------------------------------------------------------------------------

    def received(self, item: wire.Item) -> bool:
        """Take an item that concerns this node's sessions; False: it is none."""
        hub = self._hub
        match item:
            case wire.Publish(conversation_id, seq, event, everywhere, message_count):
                hub.publish(
                    conversation_id,
                    seq,
                    Encoded(event),
                    to=(),
                    everywhere=everywhere,
                    message_count=message_count,
                )
            case wire.Live(conversation_id, key, event, except_user_id, is_state):
                hub.publish_live(
                    conversation_id,
                    key,
                    Encoded(event),
                    to=(),
                    except_user_id=except_user_id,
                    is_state=is_state,
                )
            case wire.PublishUser(user_id, seq, event):
                hub.publish_user(user_id, seq, Encoded(event))
            case wire.LiveUser(user_id, key, event, stream):
                hub.publish_user_live(user_id, key, Encoded(event), stream=stream)
            case wire.PostLive(post_id, key, event):
                hub.publish_post(post_id, key, Encoded(event))
                hub.feeds.heard(event)
            case wire.Subscribe(conversation_id, epoch, user_ids):
                if self._is_current(conversation_id, epoch, user_ids):
                    hub.subscribe(conversation_id, user_ids)
            case wire.Unsubscribe(conversation_id, epoch, user_ids):
                if self._is_current(conversation_id, epoch, user_ids):
                    hub.unsubscribe(conversation_id, user_ids, to=())
            case wire.Resync(conversation_id, epoch, head, user_ids):
                if self._is_current(conversation_id, epoch, hub.user_ids()):
                    hub.resync(conversation_id, head, set(user_ids))
            case wire.ResyncUser(user_id, head):
                hub.resync_user(user_id, head)
            case wire.Part(user_id, other_id):
                hub.part(user_id, other_id)
            case wire.CloseSession(user_id, session_id):
                hub.close_session(user_id, session_id)
            case wire.ReplaceConnection(user_id, place):
                if place.boot == self._boot():
                    hub.replace_connection(user_id, place)
            case _:
                return False
        return True

    def _is_current(self, conversation_id: str, epoch: int, user_ids: Iterable[str]) -> bool:
        """Tell whether the sender is not known to be a former owner; else ask the store who is a member.

        What it says of membership may have been overtaken by what its successor said.
        """
        shard = Address("conversation", conversation_id).shard
        known = max(self._placement.route_of(shard).epoch, self._heard.get(shard, 0))
        if epoch >= known:
            self._heard[shard] = epoch
            return True
        self._healer.check_users(user_ids)
        return False


def _event(encoded: Encoded) -> Event:
    return encoded.event  # type: ignore[return-value]  # replies never travel by fan-out
