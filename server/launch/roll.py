"""One node after the other: drained, ended, started, and waited for until it has its share again."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import trio

from protocol.errors import StorageUnavailable
from server.launch.child import Child, describe_exit
from storage.glance import Glance, glance

# Of an even share. Placement gives every node as many, and moves them few at a time; the last ones of a node
# that is up anyway are not worth waiting for.
ENOUGH: Final = 0.9
LOOK_EVERY_S: Final = 0.5
UP_WITHIN_S: Final = 120.0  # a migration fits

Tell = Callable[[str, str], Awaitable[None]]


class Share(msgspec.Struct, frozen=True):
    """What a node owns of all shards, and whether that will do."""

    is_enough: bool
    owned_count: int
    fair_count: int
    unowned_count: int

    def __str__(self) -> str:
        unowned = f", and {self.unowned_count} have no owner" if self.unowned_count else ""
        return f"{self.owned_count} shards of about {self.fair_count}{unowned}"


ReadShare = Callable[[str], Awaitable[Share]]


class RollFailed(Exception):
    """It cannot go on; the message is one sentence that says why."""


def share_of(node_id: str, seen: Glance) -> Share:
    """Judge by the store what a node has. Pure."""
    alive = {member.node_id: member.boot for member in seen.members if member.lease_left_ms > 0}
    staying = [m for m in seen.members if m.lease_left_ms > 0 and not m.is_draining]
    fair_count = len(seen.shards) // max(len(staying), 1)
    # A shard of an earlier life belongs to nobody who could serve it.
    owners = [shard.owner for shard in seen.shards if shard.owner and alive.get(shard.owner) == shard.boot]
    owned_count = owners.count(node_id)
    unowned_count = len(seen.shards) - len(owners)
    is_enough = node_id in alive and owned_count >= ENOUGH * fair_count and unowned_count == 0
    return Share(is_enough, owned_count, fair_count, unowned_count)


def share_in_store(directory: Path) -> ReadShare:
    """Read shares from the store of a directory; one that cannot be read now counts as none."""

    async def read(node_id: str) -> Share:
        try:
            seen = await trio.to_thread.run_sync(glance, directory)
        except StorageUnavailable:
            return Share(False, 0, 0, 0)
        return share_of(node_id, seen)

    return read


async def drain(child: Child, tell: Tell, *, at_once: bool = False) -> None:
    """Have a node end, and stay so."""
    if child.phase == "stopped":
        await tell(child.node_id, "is stopped already")
        return
    await tell(child.node_id, "stopping at once" if at_once else "draining")
    began_at = trio.current_time()
    await child.stop(at_once=at_once)
    how = describe_exit(child.last_exit) or "before it ran"
    await tell(child.node_id, f"ended ({how}) after {trio.current_time() - began_at:.1f} s")


async def start(child: Child, tell: Tell, read_share: ReadShare, *, timeout_s: float) -> None:
    """Have a node run, and wait until it is up and has its share. Raises: RollFailed."""
    began_at = trio.current_time()
    ends, ups = child.start_count, child.up_count
    if not child.is_in("up"):
        child.start()
        await tell(child.node_id, "starting")
        with trio.move_on_after(UP_WITHIN_S) as patience:
            await child.until(
                lambda: (
                    child.up_count > ups
                    or (child.start_count > ends and child.is_in("waiting", "stopped"))
                    or not child.is_wanted
                )
            )
        if patience.cancelled_caught:
            raise RollFailed(f"{child.node_id} was not up after {UP_WITHIN_S:.0f} s; its log says more.")
        if not child.is_in("up"):
            raise RollFailed(
                f"{child.node_id} ended at its start ({describe_exit(child.last_exit)}); its log says why."
            )
    await tell(child.node_id, f"up after {trio.current_time() - began_at:.1f} s, taking over its shards")
    share = Share(False, 0, 0, 0)
    with trio.move_on_after(timeout_s):
        while child.is_in("up"):
            share = await read_share(child.node_id)
            if share.is_enough:
                await tell(child.node_id, f"has {share} after {trio.current_time() - began_at:.1f} s")
                return
            await trio.sleep(LOOK_EVERY_S)
        raise RollFailed(
            f"{child.node_id} ended while it took over its shards ({describe_exit(child.last_exit)}); "
            "its log says why."
        )
    raise RollFailed(f"{child.node_id} is up, but has {share} after {timeout_s:.0f} s.")


async def roll(
    children: Sequence[Child],
    tell: Tell,
    read_share: ReadShare,
    *,
    timeout_s: float,
    is_given_up: Callable[[], bool],
) -> None:
    """Restart nodes one after the other. Raises: RollFailed; nodes that were not reached run on as they are.

    `is_given_up` is asked before each: a node is never left half-way.
    """
    for child in children:
        if is_given_up():
            raise RollFailed(
                f"Whoever asked has left; {child.node_id} and those after it were not restarted."
            )
        await drain(child, tell)
        await start(child, tell, read_share, timeout_s=timeout_s)
