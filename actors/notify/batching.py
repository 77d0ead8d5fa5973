"""How a group of notifications is told: who, how many, and with which data. All of bounded size."""

from collections.abc import Iterable

import msgspec

from protocol.notify_types import MAX_DATA_BYTES

MAX_NAMES = 3  # kept of a group; with more actors two are named, so that "and 1 other" never comes
MAX_ACTORS = 1_000  # are told apart; beyond, the count of actors stands still
MAX_NAME_CHARS = 100
MAX_IDS = 100  # of a group's notifications, the newest, for links and for the ledger


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a template needs: "Ann", "Ann and Ben", "Ann, Ben and Cid", "Ann, Ben and 3 others".

    `count`: of notifications; `names`: to be written out; `others`: how many more actors there are, at least
    where `is_exact` is false. Nobody is named where no notification had an actor. How the words are joined is
    the template's, as it depends on the language.
    """

    count: int
    names: list[str] = []
    others: int = 0
    is_exact: bool = True


class Batch(msgspec.Struct, kw_only=True):
    """A batch or digest as it grows; may be stored. `actors`: those told apart, `names`: the first few."""

    count: int = 0
    names: list[str] = []
    actors: set[str] = set()
    is_exact: bool = True
    data: dict[str, object] = {}
    ids: list[int] = []

    def add(self, notification_id: int, actor: str = "", data: dict[str, object] | None = None) -> None:
        """Take one in. An actor counts once, however often it acts; the empty one is nobody."""
        self.count += 1
        self.ids = [*self.ids[1 - MAX_IDS :], notification_id]
        if actor and actor not in self.actors:
            if len(self.actors) < MAX_ACTORS:
                self.actors.add(actor)
                if len(self.names) < MAX_NAMES:
                    self.names.append(actor[:MAX_NAME_CHARS])
            else:
                self.is_exact = False
        if data:
            self.data = merge_data(self.data, data)

    def summary(self) -> Summary:
        """Tell it as it is now."""
        return _summary(self.count, self.names, len(self.actors), self.is_exact)


def summarise(count: int, actors: Iterable[str]) -> Summary:
    """Tell `count` notifications by these actors, in the order in which they acted."""
    batch = Batch()
    for actor in actors:
        batch.add(0, actor)
    return _summary(count, batch.names, len(batch.actors), batch.is_exact)


def merge_data(
    old: dict[str, object], new: dict[str, object], max_bytes: int = MAX_DATA_BYTES
) -> dict[str, object]:
    """Merge the data of a group's newest member: its values win, key by key, whole values at a time.

    Where it becomes too large as JSON, the keys that were set longest ago go first. One member's data fits by
    itself, as a request's does; if it does not, it ends up empty.
    """
    merged = {key: value for key, value in old.items() if key not in new} | new
    encode = msgspec.json.encode
    sizes = {key: len(encode(key)) + len(encode(value)) + 2 for key, value in merged.items()}  # ":" and ","
    size = sum(sizes.values()) + 1  # "{}", and the last has no comma
    for key in list(merged):
        if size <= max_bytes:
            break
        size -= sizes[key]
        del merged[key]
    return merged


def _summary(count: int, names: list[str], actor_count: int, is_exact: bool) -> Summary:
    shown = names if actor_count <= MAX_NAMES else names[: MAX_NAMES - 1]
    return Summary(count=count, names=list(shown), others=actor_count - len(shown), is_exact=is_exact)
