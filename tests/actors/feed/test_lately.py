"""What was lately used is held; an actor in the middle of appends relies on that."""

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from actors.feed.lately import Lately


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8), st.integers(0, 3))))
def test_the_least_recently_used_is_forgotten_first(uses: list[tuple[bool, int, int]]) -> None:
    """A value of 0 or False is one, too: it says that there is nothing."""
    lately: Lately[int, int] = Lately(4)
    model: OrderedDict[int, int] = OrderedDict()
    for is_put, key, value in uses:
        if is_put:
            lately.put(key, value)
            model[key] = value
            model.move_to_end(key)
            if len(model) > 4:
                model.popitem(last=False)
        else:
            assert lately.get(key) == model.get(key)
            if key in model:
                model.move_to_end(key)
        assert len(lately) == len(model)
