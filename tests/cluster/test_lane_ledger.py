"""Whose frames are taken, and what is known to be missing before them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.envelope import FORMAT, Envelope, Hello, Lane, Refusal, Refused
from cluster.lane_ledger import MAX_SENDERS, Ledger, Verdict

ME, MY_BOOT, MY_SESSION = "bob", 5, 55


def envelope(
    lane_seq: int,
    *,
    lane: Lane = Lane.DATA,
    sender: str = "ann",
    boot: int = 1,
    session: int = 11,
    receiver: str = ME,
    receiver_boot: int = MY_BOOT,
    receiver_session: int = MY_SESSION,
    data_seq: int = 0,
    format: int = FORMAT,  # as the field is called
) -> Envelope:
    return Envelope(
        format,
        sender,
        boot,
        session,
        receiver,
        receiver_boot,
        receiver_session,
        lane,
        lane_seq,
        data_seq,
        0,
        [],
    )


def hello(
    *,
    boot: int = 1,
    session: int = 11,
    receiver: str = "",
    receiver_boot: int = 0,
    receiver_session: int = 0,
    host: str = "127.0.0.1",
    port: int = 1,
) -> Hello:
    return Hello(FORMAT, "ann", boot, session, receiver, receiver_boot, receiver_session, host, port, 2)


def open_ledger() -> Ledger:
    return Ledger(ME, MY_BOOT, MY_SESSION)


def judge(ledger: Ledger, frame: Hello | Envelope, now: float = 0.0) -> Verdict:
    lane = Lane(frame.lane) if isinstance(frame, Envelope) else Lane.CONTROL
    return ledger.judge(frame, lane, now)


def refusal(ledger: Ledger, frame: Hello | Envelope) -> Refusal:
    with pytest.raises(Refused) as refused:
        judge(ledger, frame)
    return refused.value.reason


@given(seqs=st.lists(st.integers(1, 20)))
def test_whatever_arrives_is_new_or_refused_and_every_hole_is_told_once(seqs: list[int]) -> None:
    """Items are applied once; what is missing is looked for elsewhere."""
    ledger = open_ledger()
    last = lost = 0
    for seq in seqs:
        if seq <= last:
            assert refusal(ledger, envelope(seq)) is Refusal.REPLAYED
        else:
            lost += judge(ledger, envelope(seq)).lost_count
            last = seq
    assert lost == last - len({seq for n, seq in enumerate(seqs) if seq > max(seqs[:n], default=0)})


def test_frames_for_others_or_of_others_are_refused_by_reason() -> None:
    """Addresses are used again, processes live on after their death, and recordings can be played."""
    ledger = open_ledger()
    judge(ledger, envelope(1, boot=2))
    assert refusal(ledger, envelope(2, boot=1)) is Refusal.OLD_BOOT
    assert refusal(ledger, envelope(1, boot=2)) is Refusal.REPLAYED
    assert refusal(ledger, envelope(2, boot=2, receiver="eve")) is Refusal.OTHER_RECEIVER
    assert refusal(ledger, envelope(2, boot=2, receiver="")) is Refusal.OTHER_RECEIVER
    assert refusal(ledger, envelope(2, boot=2, receiver_boot=4)) is Refusal.STALE_RECEIVER
    assert refusal(ledger, envelope(2, boot=2, receiver_session=54)) is Refusal.STALE_RECEIVER
    assert refusal(ledger, envelope(2, boot=2, format=FORMAT + 1)) is Refusal.FORMAT
    assert refusal(ledger, envelope(2, sender=ME)) is Refusal.OWN
    assert refusal(ledger, envelope(2, sender="")) is Refusal.MALFORMED
    assert refusal(ledger, envelope(2, boot=2, session=0)) is Refusal.MALFORMED
    assert refusal(ledger, hello(boot=2, receiver_boot=MY_BOOT + 1)) is Refusal.STALE_RECEIVER
    assert refusal(ledger, hello(boot=2, port=0)) is Refusal.MALFORMED
    assert refusal(ledger, hello(boot=2, host="")) is Refusal.MALFORMED
    for frame in (envelope(2, boot=2), hello(boot=2)):
        other = Lane.CONTROL if isinstance(frame, Envelope) else Lane.DATA
        with pytest.raises(Refused) as refused:
            ledger.judge(frame, other, 0.0)
        assert refused.value.reason is Refusal.LANE
    assert judge(ledger, envelope(2, boot=2)).lost_count == 0  # nothing of it has done any harm


def test_a_session_counts_once_it_has_answered_to_this_run_and_never_after_its_successor() -> None:
    """Whoever plays an old hello can make us answer it, and no more."""
    ledger = open_ledger()
    claimed = judge(ledger, hello(session=11))
    assert not claimed.is_proven
    assert claimed.sender.address_session == 11
    assert judge(ledger, envelope(1, session=11)).is_new_session
    assert not judge(ledger, envelope(2, session=11)).is_new_session
    judge(ledger, hello(session=12))
    sender = ledger.sender("ann")
    assert sender is not None
    assert (sender.session, sender.address_session, sender.claimed_session) == (11, 11, 12)
    assert judge(ledger, hello(session=12, receiver=ME, receiver_session=MY_SESSION)).is_new_session
    assert judge(ledger, envelope(1, session=12)).lost_count == 0
    assert refusal(ledger, envelope(3, session=11)) is Refusal.OLD_SESSION
    judge(ledger, hello(session=11))
    assert (sender.session, sender.claimed_session) == (12, 12)


def test_the_lost_end_of_a_data_lane_is_noticed_at_the_second_beat() -> None:
    """The last event before silence is the one that somebody waits for."""
    ledger = open_ledger()
    judge(ledger, envelope(1))
    assert judge(ledger, envelope(1, lane=Lane.CONTROL, data_seq=3), now=1.0).lost_count == 0
    assert judge(ledger, envelope(2, lane=Lane.CONTROL, data_seq=3), now=1.2).lost_count == 0
    assert judge(ledger, envelope(3, lane=Lane.CONTROL, data_seq=3), now=2.0).lost_count == 2
    assert judge(ledger, envelope(4, lane=Lane.CONTROL, data_seq=3), now=9.0).lost_count == 0  # told once
    assert judge(ledger, envelope(5), now=9.0).lost_count == 1  # 4
    assert judge(ledger, envelope(6), now=9.0).lost_count == 0


def test_data_that_is_late_is_not_lost_and_is_taken_even_after_it_was_given_up() -> None:
    """A saturated lane is behind its control lane by megabytes."""
    ledger = open_ledger()
    judge(ledger, envelope(1))
    for beat in range(1, 5):
        told = judge(ledger, envelope(beat, lane=Lane.CONTROL, data_seq=9), now=float(beat))
        assert told.lost_count == 0
        assert judge(ledger, envelope(beat + 1), now=beat + 0.5).lost_count == 0
    for beat, lost in ((5, 0), (6, 4)):
        told = judge(ledger, envelope(beat, lane=Lane.CONTROL, data_seq=9), now=float(beat))
        assert told.lost_count == lost
    assert judge(ledger, envelope(6), now=7.0).lost_count == 0
    assert judge(ledger, envelope(10), now=7.0).lost_count == 0


def test_made_up_names_do_not_fill_the_memory() -> None:
    """Without a secret, anybody may send hellos in any name."""
    ledger = open_ledger()
    for n in range(MAX_SENDERS + 10):
        judge(ledger, envelope(1, sender=f"node-{n}"))
    assert ledger.sender("node-9") is None
    assert ledger.sender("node-10") is not None
