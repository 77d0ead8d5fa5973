"""What a batch tells when more join it, against a plain model; and that it stays small."""

from hypothesis import given
from hypothesis import strategies as st

from actors.notify.batching import MAX_ACTORS, MAX_NAMES, grown
from actors.notify.builtin_types import DIGEST
from actors.notify.user_state import Kept
from protocol.notify_content import Content


def member(name: str, number: int, extra: int = 0) -> Kept:
    """One that somebody has done, or nobody (""), with so many more who are known by their number alone."""
    names = [name] if name else []
    content = Content(type="t", text=f"text {number}", actor=name)
    return Kept(content=content, names=names, actor_count=len(names) + extra)


def gathered(members: list[Kept]) -> Kept:
    """The first opens the batch, and the others join it."""
    kept, actors = members[0], set(members[0].names)
    for one in members[1:]:
        kept, new = grown(kept, actors, one)
        actors.update(new)
    return kept


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "Ann", "Ben", "Cid", "Dan", "Eve"]), st.integers(0, 9)), min_size=1
    )
)
def test_a_batch_names_the_first_and_counts_everybody_once(done: list[tuple[str, int]]) -> None:
    """“Ann, Ben and 3 others”: whoever acts twice is one, and the text is the newest one's."""
    members = [member(name, number, extra) for number, (name, extra) in enumerate(done)]
    kept = gathered(members)
    people = list(dict.fromkeys(name for name, _ in done if name))
    assert kept.names == people[:MAX_NAMES]
    assert kept.actor_count == len(people) + sum(extra for _, extra in done)
    assert kept.content == members[-1].content
    assert kept.first == (members[0].content if len(members) > 1 else None)


def test_beyond_a_thousand_nobody_is_told_apart_and_all_count() -> None:
    """A post that everybody likes must not make a row that grows with it."""
    kept, actors = member("user 0", 0), {"user 0"}
    for number in range(1, MAX_ACTORS + 50):
        kept, new = grown(kept, actors, member(f"user {number}", number))
        actors.update(new)
    assert len(actors) == MAX_ACTORS
    assert (kept.names, kept.actor_count) == (["user 0", "user 1", "user 2"], MAX_ACTORS + 50)


def test_a_digest_keeps_its_own_words_and_a_carrier_has_no_first() -> None:
    """What opened a carrier's group was cancelled: it is told by those that came since."""
    digest = Kept(content=Content(type=DIGEST, template=DIGEST))
    kept, _ = grown(digest, (), member("Ann", 1))
    assert (kept.content, kept.first) == (digest.content, None)
    carrier = Kept(content=Content(type="t", text="old"), is_carrier=True)
    kept, _ = grown(carrier, (), member("Ann", 1))
    assert (kept.content.text, kept.first) == ("text 1", None)
