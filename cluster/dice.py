"""A small seeded generator whose whole state is one integer, so that a pure function can carry it along."""

from collections.abc import Sequence
from typing import Final, TypeVar

T = TypeVar("T")

_MASK: Final = (1 << 64) - 1


class Dice:
    """SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).

    Not for secrets. `state` before a call decides everything about it; keep it to go on later.
    """

    __slots__ = ("state",)

    def __init__(self, state: int) -> None:
        self.state = state & _MASK

    def bits(self) -> int:
        """Draw 64 bits."""
        self.state = (self.state + 0x9E3779B97F4A7C15) & _MASK
        mixed = self.state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return mixed ^ (mixed >> 31)

    def below(self, limit: int) -> int:
        """Draw an integer from 0 to limit - 1. Small limits only: the modulo is biased."""
        return self.bits() % limit

    def fraction(self) -> float:
        """Draw a float from 0 up to, but without, 1."""
        return (self.bits() >> 11) * 2.0**-53

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """Draw up to `count` different items, in random order (Fisher and Yates' shuffle, cut short)."""
        pool = list(items)
        count = min(count, len(pool))
        for place in range(count):
            other = place + self.below(len(pool) - place)
            pool[place], pool[other] = pool[other], pool[place]
        return pool[:count]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return the items in random order."""
        return self.sample(items, len(items))
