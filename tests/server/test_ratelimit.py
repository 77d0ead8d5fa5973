"""Rates and counts: what keeps one address or one session from taking everything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.ratelimit import (
    AddressCounts,
    AddressRates,
    Rate,
    TokenBucket,
    address_key,
    client_address,
    trusted_networks,
)


@given(
    per_s=st.floats(0.1, 1000),
    burst=st.floats(1, 1000),
    gaps_s=st.lists(st.floats(0, 10), min_size=1, max_size=200),
)
def test_never_more_than_the_burst_and_the_rate(per_s: float, burst: float, gaps_s: list[float]) -> None:
    """In any window, at most burst + rate x time is allowed."""
    bucket = TokenBucket(Rate(per_s, burst), 0.0)
    now, allowed = 0.0, 0
    for gap_s in gaps_s:
        now += gap_s
        if bucket.take(now):
            allowed += 1
        else:
            assert bucket.retry_after_s(now) > 0
    assert allowed <= burst + per_s * now + 1e-6


@given(per_s=st.floats(0.1, 1000), taken=st.integers(1, 50))
def test_a_refused_caller_may_come_again_when_it_was_told(per_s: float, taken: int) -> None:
    """`retry_after_s` is a promise to the client."""
    bucket = TokenBucket(Rate(per_s, 5.0), 0.0)
    for _ in range(taken):
        bucket.take(0.0)
    wait_s = bucket.retry_after_s(0.0)
    assert bucket.take(wait_s * 1.000001 + 1e-9)


def test_asking_does_not_count_and_addresses_do_not_disturb_each_other() -> None:
    """Log-ins ask before they check a password, and count only the failures."""
    rates = AddressRates(Rate(0.01, 2.0))
    for _ in range(10):
        assert rates.retry_after_s("1.1.1.1", 0.0) == 0.0
    assert rates.take("1.1.1.1", 0.0)
    assert rates.take("1.1.1.1", 0.0)
    assert not rates.take("1.1.1.1", 0.0)
    assert rates.retry_after_s("1.1.1.1", 0.0) > 0.0
    assert rates.retry_after_s("1.1.1.1", 0.0) == pytest.approx(100.0)
    assert rates.retry_after_s("2.2.2.2", 0.0) == 0.0
    assert rates.retry_after_s("2.2.2.2", 0.0) == 0.0
    assert rates.retry_after_s("1.1.1.1", 101.0) == 0.0


def test_what_is_remembered_of_addresses_is_bounded() -> None:
    """A botnet must not fill the memory; the longest unseen is forgotten first."""
    rates = AddressRates(Rate(0.001, 1.0), max_addresses=100)
    for number in range(1000):
        rates.take(f"10.0.{number // 250}.{number % 250}", float(number))
        rates.take("9.9.9.9", float(number))
    assert len(rates) == 100
    assert rates.retry_after_s("9.9.9.9", 999.0) > 0.0


def test_counts_go_up_to_the_limit_and_back_to_nothing() -> None:
    """What enters must leave, and leaves no trace."""
    counts = AddressCounts(2)
    assert counts.enter("1.1.1.1")
    assert counts.enter("1.1.1.1")
    assert not counts.enter("1.1.1.1")
    assert counts.enter("1.1.1.2")
    counts.leave("1.1.1.1")
    assert counts.enter("1.1.1.1")
    for address in ("1.1.1.1", "1.1.1.1", "1.1.1.2"):
        counts.leave(address)
    assert len(counts) == 0


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("what:is:this", "what:is:this"),
    ],
)
def test_an_ipv6_customer_counts_as_one(address: str, key: str) -> None:
    """A /64 has more addresses than anybody can remember."""
    assert address_key(address) == key


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address"),
    [
        ("8.8.8.8", "1.1.1.1", "8.8.8.8"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "1.1.1.1", "1.1.1.1"),
        ("10.0.0.1", "6.6.6.6, 1.1.1.1", "1.1.1.1"),
        ("10.0.0.1", "1.1.1.1, 10.0.0.2", "1.1.1.1"),
        ("::ffff:10.0.0.1", "1.1.1.1", "1.1.1.1"),
        ("10.0.0.1", "junk", "10.0.0.1"),
        ("10.0.0.1", "1.1.1.1, junk", "10.0.0.1"),
        ("10.0.0.1", '"[2001:db8::1]"', "2001:db8::1"),
        ("no address", "1.1.1.1", "no address"),
    ],
)
def test_only_what_our_own_proxies_wrote_is_believed(peer: str, forwarded_for: str, address: str) -> None:
    """Anybody can send X-Forwarded-For."""
    assert client_address(peer, forwarded_for, trusted_networks(("10.0.0.0/8",))) == address


def test_a_network_that_is_none_is_refused() -> None:
    """A typing error in the settings must not trust nobody, or everybody, in silence."""
    with pytest.raises(ValueError, match=r"10\.0\.0"):
        trusted_networks(("10.0.0",))
    assert not trusted_networks(())("127.0.0.1")
