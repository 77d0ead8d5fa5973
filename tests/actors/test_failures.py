"""What an actor's task raised is taken apart without losing a cancellation or a bug."""

import pytest
import trio

from actors import StopEntity
from actors.failures import refusal_in, sort_failure
from protocol.errors import Refused, Unavailable

BUG, BUG_2 = ValueError("bug"), KeyError("bug")
REFUSAL = Refused("forbidden")
STOP = StopEntity(Unavailable("moved"))


@pytest.mark.parametrize(
    ("raised", "failure"),
    [
        (BUG, BUG),
        (ExceptionGroup("", [BUG]), BUG),
        (ExceptionGroup("", [REFUSAL, ExceptionGroup("", [STOP, BUG])]), BUG),
        (ExceptionGroup("", [REFUSAL, STOP]), STOP),
        (ExceptionGroup("", [REFUSAL]), REFUSAL),
    ],
)
def test_a_bug_counts_before_a_stop_and_that_before_a_refusal(raised: Exception, failure: Exception) -> None:
    """An actor that meets a bug while it is being stopped is not quietly stopped."""
    assert sort_failure(raised) == (failure, None)


def test_several_bugs_are_all_kept() -> None:
    """The log shows the traceback of each."""
    failure, passing = sort_failure(ExceptionGroup("", [BUG, REFUSAL, ExceptionGroup("", [BUG_2])]))
    assert isinstance(failure, ExceptionGroup)
    assert failure.exceptions == (BUG, BUG_2)
    assert passing is None


async def test_a_cancellation_goes_on_beside_a_bug() -> None:
    """Cancelled is Trio's: swallowed once, a whole tree no longer stops."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            assert sort_failure(cancelled) == (None, cancelled)
            group = BaseExceptionGroup("", [cancelled])
            failure, passing = sort_failure(group)
            assert failure is None
            assert isinstance(passing, BaseExceptionGroup)
            assert passing.exceptions == (cancelled,)
            failure, passing = sort_failure(BaseExceptionGroup("", [BUG, group]))
            assert failure is BUG
            assert isinstance(passing, BaseExceptionGroup)
            assert passing.subgroup(trio.Cancelled) is not None
            assert passing.subgroup(Exception) is None
            raise
    assert scope.cancelled_caught


def test_only_a_group_of_nothing_but_refusals_is_one() -> None:
    """A bug beside a refusal is not answered away."""
    assert refusal_in(REFUSAL) is REFUSAL
    assert refusal_in(ExceptionGroup("", [ExceptionGroup("", [REFUSAL])])) is REFUSAL
    assert refusal_in(ExceptionGroup("", [REFUSAL, BUG])) is None
    assert refusal_in(BUG) is None
    assert refusal_in(STOP) is None
