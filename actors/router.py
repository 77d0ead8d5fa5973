"""How a message finds its actor: by address, wherever that actor lives."""

from collections.abc import Iterable
from typing import Protocol

import trio

from actors.address import Address
from actors.reply import NO_REPLY, Reply, ReplySlot
from protocol.errors import HubbubError, Unavailable

# About what a full mailbox takes to drain when each batch waits for one commit of a slow disk.
BUSY_RETRY_S = 0.5


class Router(Protocol):
    """Carry messages to actors by address.

    Nothing here waits for the actor's mailbox: it takes the message at once or refuses it. Between one sender
    and one address order is kept. `LocalRouter` serves one node; a cluster's router fits the same shape.
    """

    def tell(self, address: Address, message: object) -> None:
        """Hand over a message that needs no answer.

        Raises: Unavailable, when it was not taken ("busy", "quarantined", "draining").
        """

    def tell_if_active(self, address: Address, message: object) -> bool:
        """Hand over a hint that only matters to an actor that is awake, such as typing.

        Return whether it was taken. Never activates an actor, never raises Unavailable.
        """

    def ask_nowait(self, address: Address, message: object, reply: Reply) -> None:
        """Hand over a message whose answer goes to `reply`; a refusal fails `reply` before this returns."""

    async def ask(self, address: Address, message: object, *, timeout_s: float) -> object:
        """Hand over a message and wait for its answer. Not for actors, which must not wait for each other.

        Raises: the HubbubError that the actor or the router answered with; Unavailable("timeout") when no
        answer came in `timeout_s` seconds, in which case the message may still be handled.
        """


class Host(Protocol):
    """Run the actors of one kind and take their messages: what a `LocalRouter` routes to."""

    @property
    def kind(self) -> str:
        """The kind of the addresses it serves."""

    def deliver(
        self, address: Address, message: object, reply: Reply, *, may_be_at_once: bool = False
    ) -> None:
        """Put a message in the actor's mailbox, activating the actor first where needed.

        `may_be_at_once`: one that waits for work may handle it in the sender's turn. Not between actors.

        Raises: Unavailable.
        """

    def deliver_if_active(self, address: Address, message: object) -> bool:
        """Put a message in the mailbox of an actor that is awake and has room; return whether it was."""


class UnknownKind(LookupError):
    """No host serves this kind of address on this node: a bug in the wiring, not a passing condition."""


class LocalRouter:
    """Route to the hosts of this process, by the address's kind."""

    def __init__(self, hosts: Iterable[Host] = ()) -> None:
        self._hosts: dict[str, Host] = {}
        for host in hosts:
            self.add(host)

    def add(self, host: Host) -> None:
        """Serve the addresses of `host.kind` with `host`, instead of any earlier host of that kind."""
        self._hosts[host.kind] = host

    def tell(self, address: Address, message: object) -> None:
        """Hand over a message that needs no answer.

        Raises: Unavailable; UnknownKind.
        """
        self._host(address).deliver(address, message, NO_REPLY)

    def tell_if_active(self, address: Address, message: object) -> bool:
        """Hand over a hint if the actor is awake and has room; return whether it was taken.

        Raises: UnknownKind.
        """
        return self._host(address).deliver_if_active(address, message)

    def ask_nowait(self, address: Address, message: object, reply: Reply) -> None:
        """Hand over a message whose answer goes to `reply`; a refusal fails `reply` before this returns.

        Raises: UnknownKind.
        """
        try:
            self._host(address).deliver(address, message, reply, may_be_at_once=True)
        except HubbubError as error:
            reply.fail(error)

    async def ask(self, address: Address, message: object, *, timeout_s: float) -> object:
        """Hand over a message and wait for its answer.

        Raises: HubbubError; Unavailable("timeout"); UnknownKind.
        """
        slot = ReplySlot()
        self._host(address).deliver(address, message, slot)
        with trio.move_on_after(timeout_s):
            return await slot.wait()
        raise Unavailable("timeout", retry_after_s=timeout_s)

    def _host(self, address: Address) -> Host:
        try:
            return self._hosts[address.kind]
        except KeyError:
            raise UnknownKind(f"no host serves {address}") from None
