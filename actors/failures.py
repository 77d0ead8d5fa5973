"""Tell apart what comes out of an actor's task: its own failures, and what has to go on.

Trio wraps what tasks raise in exception groups; here they are taken apart, so that Cancelled is never
swallowed and a refusal is still one when it was raised inside a nursery.
"""

from collections.abc import Iterator

from actors.entity import StopEntity
from protocol.errors import HubbubError


def refusal_in(error: Exception) -> HubbubError | None:
    """Return the refusal that `error` is, or that a group consists of; None if there is anything else."""
    refusals = [leaf for leaf in _leaves(error) if isinstance(leaf, HubbubError)]
    return refusals[0] if len(refusals) == sum(1 for _ in _leaves(error)) else None


def sort_failure(raised: BaseException) -> tuple[Exception | None, BaseException | None]:
    """Split what ended an incarnation: the failure that is its own, and what must go on (Cancelled, …).

    Of several failures a bug counts before a request to stop, and that before a refusal.
    """
    if not isinstance(raised, BaseExceptionGroup):
        return (raised, None) if isinstance(raised, Exception) else (None, raised)
    own, passing = raised.split(Exception)
    if own is None:
        return None, passing
    failures = [leaf for leaf in _leaves(own) if isinstance(leaf, Exception)]
    bugs = [error for error in failures if not isinstance(error, StopEntity | HubbubError)]
    if len(bugs) > 1:
        return ExceptionGroup("several tasks of the entity failed", bugs), passing
    stops = [error for error in failures if isinstance(error, StopEntity)]
    return [*bugs, *stops, *failures][0], passing


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error
