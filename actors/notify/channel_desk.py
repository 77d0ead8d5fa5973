"""The channels of a node together, as the partitions see them."""

from collections.abc import Callable, Iterable

from actors.notify.channel import HANDS, ChannelActor
from actors.notify.job import Job
from actors.notify.ports import Account, Accounts
from actors.supervisor import ChildSpec
from protocol.notify_types import Channel


class ChannelDesk:
    """Hand jobs to the actor of their channel."""

    def __init__(
        self, accounts: Accounts, *, now_ms: Callable[[], int], nodes: Callable[[], int] = lambda: 1
    ) -> None:
        self._accounts = accounts
        self.channels: dict[Channel, ChannelActor] = {
            channel: ChannelActor(channel, accounts, now_ms=now_ms, nodes=nodes) for channel in HANDS
        }

    def child_specs(self) -> list[ChildSpec]:
        """One supervised child for each channel: a stalled provider holds up no other."""
        return [
            ChildSpec(name=f"channel_{name}", start=channel.run) for name, channel in self.channels.items()
        ]

    def reserve(self, job: Job) -> bool:
        """As ChannelActor.reserve."""
        return self.channels[job.channel].reserve(job)

    def offer(self, job: Job) -> None:
        """As ChannelActor.offer."""
        self.channels[job.channel].offer(job)

    def begun(self, jobs: Iterable[Job]) -> None:
        """As ChannelActor.begun."""
        for job in jobs:
            self.channels[job.channel].begun((job,))

    def left(self, jobs: Iterable[Job]) -> None:
        """As ChannelActor.left."""
        for job in jobs:
            self.channels[job.channel].left((job,))

    def has_next(self, job: Job) -> bool:
        """As ChannelActor.has_next."""
        return self.channels[job.channel].has_next(job)

    def moving_count(self, app_id: str, channels: Iterable[Channel]) -> int:
        """As ChannelActor.moving_count, on these channels together."""
        own = self.channels
        return sum(own[channel].moving_count(app_id) for channel in channels if channel in own)

    def chain(self, app_id: str, channel: Channel) -> list[Account]:
        """The app's accounts of a channel, in the order in which they are tried."""
        return self._accounts.chain(app_id, channel)

    def may_retire(self, app_id: str, channel: Channel) -> bool:
        """As ChannelActor.may_retire."""
        return self.channels[channel].may_retire(app_id)

    def is_believed(self, job: Job) -> bool:
        """As ChannelActor.is_believed, of the account that has just tried."""
        account = job.account
        return account is not None and self.channels[job.channel].is_believed(job.app_id, account)
