"""A channel's queue, hands and accounts together, without a store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

from actors.notify.breaker import FAILURES
from actors.notify.channel import DATED_LOOK_MS, HANDS, ChannelActor
from actors.notify.delivery import ACCEPTED, Outcome
from actors.notify.ports import Account
from protocol.notify_types import Channel, TypeRule
from tests.actors.notify.channel_world import NOW_MS, Accounts, Answering, Partition, made_job, offer_all

DAY_MS = 86_400_000
REFUSED_KEY = Outcome(kind="refused", action="break", code="401", scope="credential")
REFUSED = Outcome(kind="refused", action="break", code="403", scope="host")


class Counting(Accounts):
    """Counts how often somebody asks by which account an app may send."""

    asked = 0

    def chain(self, app_id: str, channel: Channel) -> list[Account]:
        self.asked += 1
        return super().chain(app_id, channel)


class Clock:
    now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


@asynccontextmanager
async def running(channel: ChannelActor) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(channel.run)
        yield
        nursery.cancel_scope.cancel()


def test_a_pace_costs_a_look_for_each_that_may_go_however_many_wait() -> None:
    """100,000 behind ten a second once took a third of a second of the event loop, ten times a second."""
    clock, accounts, partition = Clock(), Counting(rate_per_s=10.0), Partition()
    channel = ChannelActor("sms", accounts, now_ms=clock, steady_ms=clock)
    offer_all(channel, (made_job(number, owner=partition, channel="sms") for number in range(5_000)))
    for _ in range(40):
        delay_s = channel._pump()
        clock.now_ms += max(1, int(delay_s * 1000))
    assert 35 <= len(partition.given) <= 40
    assert [job.notification_id for job in partition.given] == list(range(len(partition.given)))
    assert accounts.asked <= 2 * 40
    assert channel.depth == 5_000 - len(partition.given)


def test_many_that_become_due_at_once_are_moved_in_many_small_steps() -> None:
    """At 07:00 all that the night held is due, of an app with a pace; others go on meanwhile."""
    clock, accounts, partition = Clock(), Counting(rate_per_s=1.0), Partition()
    channel = ChannelActor("sms", accounts, now_ms=clock, steady_ms=clock)
    for number in range(2_000):
        job = made_job(number, owner=partition, channel="sms")
        job.due_at_ms = NOW_MS + 1_000
        channel.offer(job)
    clock.now_ms += 1_000
    steps = 0
    while channel._pump() == 0:
        steps += 1
    assert steps >= 2_000 // 64 - 1
    assert (len(partition.given), accounts.asked) == (1, 2)


def test_one_that_was_decided_just_now_does_not_overtake_those_who_wait_for_the_pace() -> None:
    """Order within an app and a priority is the order of arrival; HIGH goes first all the same."""
    clock, accounts, partition = Clock(), Accounts(rate_per_s=1.0), Partition()
    channel = ChannelActor("sms", accounts, now_ms=clock, steady_ms=clock)
    offer_all(channel, (made_job(number, owner=partition, channel="sms") for number in range(3)))
    channel._pump()
    clock.now_ms += 999
    channel._pump()
    assert [job.notification_id for job in partition.given] == [0]
    clock.now_ms += 2  # a token is there, and nobody has looked yet
    assert not channel.reserve(made_job(9, owner=partition, channel="sms"))
    high = made_job(10, owner=partition, channel="sms", priority="high")
    assert channel.reserve(high)


def test_cancelled_ones_behind_a_pace_cost_no_token() -> None:
    """A campaign that was cancelled must not delay the next one."""
    clock, partition = Clock(), Partition()
    channel = ChannelActor("sms", Accounts(rate_per_s=1.0), now_ms=clock, steady_ms=clock)
    jobs = offer_all(channel, (made_job(number, owner=partition, channel="sms") for number in range(3_000)))
    channel._pump()
    for job in jobs[1:-1]:
        job.is_cancelled = True
    clock.now_ms += 1_000
    while channel._pump() == 0:
        pass
    assert partition.given == [jobs[0], jobs[-1]]
    assert channel.depth == 0


def test_cancelled_ones_behind_a_paused_account_leave_their_places_to_others() -> None:
    """A campaign that was cancelled while its account was paused once filled the channel for all apps."""
    accounts, partition = Accounts(), Partition()
    accounts.of_app["app"] = []
    channel = ChannelActor("sms", accounts, now_ms=lambda: NOW_MS, steady_ms=lambda: NOW_MS)
    channel._queue.capacity = 10
    jobs = offer_all(channel, (made_job(number, owner=partition, channel="sms") for number in range(10)))
    channel._pump()
    for job in jobs[1:]:
        job.is_cancelled = True
    other = made_job(11, owner=partition, channel="sms", app_id="other")
    channel.offer(other)
    channel._pump()
    assert partition.given == [other]
    assert channel.depth == 1


def test_what_finds_no_place_goes_when_there_is_one() -> None:
    """It is open in the store, and nobody else would look at it before a restart."""
    accounts, partition, clock = Accounts(), Partition(), Clock()
    accounts.of_app["app"] = []
    channel = ChannelActor("sms", accounts, now_ms=clock, steady_ms=clock)
    channel._queue.capacity = 10
    offer_all(channel, (made_job(number, owner=partition, channel="sms") for number in range(10)))
    channel._pump()
    other = made_job(11, owner=partition, channel="sms", app_id="other")
    other.due_at_ms = NOW_MS + 1_000
    channel.offer(other)
    channel._pump()
    assert (partition.given, channel.depth) == ([], 11)
    del accounts.of_app["app"]
    channel.reset("key")
    channel._pump()
    assert (len(partition.given), channel.depth) == (10, 1)
    channel._pump()
    assert other not in partition.given
    clock.now_ms += 1_000
    channel._pump()
    assert partition.given[-1] is other


async def test_a_hostile_host_holds_up_its_own_and_no_other(autojump_clock: trio.testing.MockClock) -> None:
    """Any user can register endpoints that answer 403; all apps may push by the server's own key."""
    clock, provider, partition = Clock(), Answering("webpush"), Partition()
    accounts = Accounts(provider)
    channel = partition.channel = ChannelActor("webpush", accounts, now_ms=clock, steady_ms=clock)
    provider.answers["evil.example"] = REFUSED
    async with running(channel):
        evil = [made_job(number, owner=partition, host="evil.example") for number in range(10)]
        offer_all(channel, evil)
        for _ in range(10):
            await trio.testing.wait_all_tasks_blocked()
            clock.now_ms += 20
            channel._pump_soon()
        good = made_job(99, owner=partition, app_id="good", host="push.example")
        offer_all(channel, [made_job(50, owner=partition, host="evil.example"), good])
        await trio.testing.wait_all_tasks_blocked()
    assert partition.done[-1] == ("https://push.example/99", "done")
    assert (channel.depth, channel.breakers()) == (11 - 4, {})
    assert channel.open_hosts() == ["https://evil.example"]
    ((_, kind, detail),) = accounts.alerts
    assert (kind, detail["cause"], detail["detail"]) == (
        "breaker_opened",
        "configuration",
        "https://evil.example: ",
    )


async def test_once_a_provider_answers_again_all_that_waits_goes_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A probe that came through is no reason to wait for the next one."""
    clock, provider, partition = Clock(), Answering("apns"), Partition()
    channel = partition.channel = ChannelActor("apns", Accounts(provider), now_ms=clock, steady_ms=clock)
    provider.answers[""] = Outcome(kind="refused", action="retry", code="503", scope="provider")
    async with running(channel):
        offer_all(channel, (made_job(number, owner=partition, channel="apns") for number in range(FAILURES)))
        await trio.testing.wait_all_tasks_blocked()
        assert list(channel.breakers().values()) == ["open"]
        provider.answers.clear()
        offer_all(channel, (made_job(number, owner=partition, channel="apns") for number in range(5, 105)))
        await trio.testing.wait_all_tasks_blocked()
        assert (len(partition.done), channel.depth) == (FAILURES, 100)
        clock.now_ms += 5_000
        channel._pump_soon()
        await trio.testing.wait_all_tasks_blocked()
        assert (len(partition.done), channel.depth) == (FAILURES + 100, 0)
        assert channel.in_hand == 0
    assert HANDS["apns"] > 100


async def test_what_was_refused_for_wrong_settings_goes_with_the_first_that_comes_through(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Not five minutes after its own last attempt; what waits for its time goes on waiting."""
    clock, provider, partition = Clock(), Answering("apns"), Partition()
    accounts = Accounts(provider)
    channel = partition.channel = ChannelActor("apns", accounts, now_ms=clock, steady_ms=clock)
    provider.answers[""] = Outcome(kind="refused", action="break", code="403", scope="credential")
    refused, later, probe = (made_job(number, owner=partition, channel="apns") for number in range(1, 4))
    refused.due_at_ms = later.due_at_ms = NOW_MS + 900_000
    refused.waits, refused.account, later.account = True, accounts.account(), accounts.account()
    async with running(channel):
        offer_all(channel, [made_job(0, owner=partition, channel="apns"), refused, later])
        await trio.testing.wait_all_tasks_blocked()
        assert list(channel.breakers().values()) == ["open"]
        provider.answers.clear()
        clock.now_ms += 300_000
        offer_all(channel, [probe])
        await trio.testing.wait_all_tasks_blocked()
        addresses = [probe.outgoing.target.address, refused.outgoing.target.address]
        assert partition.done[1:] == [(address, "done") for address in addresses]
        assert channel.depth == 1


async def test_hosts_that_never_answer_leave_hands_for_the_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Each request to them lasts until it times out, and users may name as many as they like."""
    clock, provider, partition = Clock(), Answering("webpush"), Partition()
    channel = partition.channel = ChannelActor("webpush", Accounts(provider), now_ms=clock, steady_ms=clock)
    provider.silent = "evil.example"
    async with running(channel):
        offer_all(channel, [made_job(0, owner=partition)])
        await trio.testing.wait_all_tasks_blocked()
        evil = (made_job(n, owner=partition, host=f"h{n % 50}.evil.example") for n in range(1, 501))
        offer_all(channel, evil)
        await trio.testing.wait_all_tasks_blocked()
        assert channel.in_hand == HANDS["webpush"] // 4
        offer_all(channel, (made_job(n, owner=partition) for n in range(1_000, 1_100)))
        while len(partition.done) < 101:
            await trio.testing.wait_all_tasks_blocked()
            clock.now_ms += 20
            channel._pump_soon()
        assert clock.now_ms - NOW_MS < 500
        assert channel.in_hand == HANDS["webpush"] // 4
    assert {action for address, action in partition.done if "push.example" in address} == {"done"}


def test_a_clock_that_was_ahead_stops_neither_a_pace_nor_what_waits() -> None:
    """NTP sets it right: what the wrong time had written down would hold an account up for a day."""
    wall, steady, partition = Clock(), Clock(), Partition()
    channel = ChannelActor("sms", Accounts(rate_per_s=10.0), now_ms=wall, steady_ms=steady)
    wall.now_ms += DAY_MS
    retry = made_job(0, owner=partition, channel="sms")
    retry.due_at_ms = wall.now_ms + 1_000
    offer_all(channel, [retry, *(made_job(number, owner=partition, channel="sms") for number in range(1, 8))])
    channel._pump()
    wall.now_ms -= DAY_MS
    for _ in range(20):
        steady.now_ms += max(1, int(min(1.0, channel._pump()) * 1000))
    assert len(partition.given) == 8


def test_what_waits_for_a_time_of_day_goes_by_the_clock_that_shows_it() -> None:
    """Quiet hours end at eight by the clock on the wall, also where that is set meanwhile."""
    wall, steady, partition = Clock(), Clock(), Partition()
    channel = ChannelActor("sms", Accounts(), now_ms=wall, steady_ms=steady)
    job = made_job(0, owner=partition, channel="sms")
    job.due_at_ms, job.is_dated = NOW_MS + 1_000, True
    channel.offer(job)
    wall.now_ms -= 3_600_000
    steady.now_ms += 2_000
    channel._pump()
    assert not partition.given
    wall.now_ms += 3_601_000
    steady.now_ms += DATED_LOOK_MS
    channel._pump()
    assert partition.given == [job]


def test_a_provider_is_tried_out_with_one_that_may_be_repeated_where_one_waits() -> None:
    """A probe may end as unknown; with a type that must not come twice it would be lost."""
    clock, partition = Clock(), Partition()
    channel = ChannelActor("sms", Accounts(), now_ms=clock, steady_ms=clock)
    first = made_job(0, owner=partition, channel="sms")
    assert channel.reserve(first)
    assert first.account is not None
    channel._admission.learn(first, first.account, REFUSED_KEY, clock())
    jobs = [made_job(number, owner=partition, channel="sms") for number in range(1, 5)]
    jobs[2].rule = TypeRule(name="t", may_double=True)
    offer_all(channel, jobs)
    channel._pump()
    assert not partition.given
    clock.now_ms += 300_000
    channel._pump()
    assert partition.given == [jobs[2]]
    assert jobs[2].account is not None
    channel._admission.learn(jobs[2], jobs[2].account, ACCEPTED, clock())
    channel._queue.release()
    channel._pump()
    assert partition.given == [jobs[2], jobs[0], jobs[1], jobs[3]]
