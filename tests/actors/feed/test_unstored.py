"""What is decided and not stored yet: the newest decision about a pair, until that one is stored."""

from actors.feed.unstored import Unstored


def test_a_pair_is_known_until_its_newest_decision_is_stored() -> None:
    unstored = Unstored()
    first = unstored.put("ann", "bob", is_there=True)
    other = unstored.put("ann", "cai", is_there=True)
    second = unstored.put("ann", "bob", is_there=False)
    assert unstored.of("ann") == {"bob": False, "cai": True}
    assert unstored.of("bob") == {}
    unstored.stored(first)
    assert unstored.of("ann") == {"bob": False, "cai": True}
    unstored.stored(second)
    assert unstored.of("ann") == {"cai": True}
    unstored.stored(other)
    unstored.stored(other)
    assert unstored.of("ann") == {}


def test_what_was_read_out_does_not_change_any_more() -> None:
    unstored = Unstored()
    move = unstored.put("ann", "bob", is_there=True)
    read = unstored.of("ann")
    unstored.stored(move)
    assert read == {"bob": True}
