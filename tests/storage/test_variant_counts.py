"""Users of an experiment's variants, counted by the store and by hand."""

from pathlib import Path
from random import Random

import pytest

from protocol.notify_found import VariantCount
from protocol.notify_ids import NotifyIds
from protocol.notify_records import NotificationRow
from protocol.records import Put
from storage.sqlite import open_store

MARKS = ("opened", "clicked", "confirmed")
COUNTED = (*MARKS, *(f"drawn_{mark}" for mark in MARKS))


def model(rows: list[NotificationRow], app_id: str, experiment: str) -> list[VariantCount]:
    """Row by row: each user once, with the best of what became of all notifications of that variant."""
    found: dict[str, dict[str, dict[str, bool]]] = {}
    for row in rows:
        name, _, variant = row.variant.partition(":")
        if row.app_id != app_id or name != experiment or not variant:
            continue
        user = found.setdefault(variant, {}).setdefault(row.user_id, {})
        is_exposed = row.is_exposed or variant == "holdout"
        user["exposed"] = user.get("exposed", False) or is_exposed
        for mark in MARKS:
            is_marked = getattr(row, f"{mark}_at_ms") > 0
            user[f"drawn_{mark}"] = user.get(f"drawn_{mark}", False) or is_marked
            user[mark] = user.get(mark, False) or (is_marked and is_exposed)
    return [
        VariantCount(
            variant=variant,
            exposed=sum(user["exposed"] for user in users.values()),
            drawn=len(users),
            **{name: sum(user[name] for user in users.values()) for name in COUNTED},
        )
        for variant, users in sorted(found.items())
    ]


@pytest.mark.parametrize("seed", range(8))
async def test_each_user_counts_once_by_what_was_sent(tmp_path: Path, seed: int) -> None:
    """Several notifications to one user are no independent trials, and not all of them were the variant's."""
    random, ids = Random(seed), NotifyIds(0, 0)
    rows = [
        NotificationRow(
            notification_id=ids.next(1_800_000_000_000 + number),
            partition=0,
            app_id=random.choice(["a", "a", "b"]),
            user_id=f"u{random.randrange(40)}",
            type="t",
            priority="low",
            state="done",
            created_at_ms=1,
            variant=random.choice(["", "e:x", "e:x", "e:y", "e:holdout", "e2:x", "d:y", "e"]),
            is_exposed=random.random() < 0.6,
            opened_at_ms=random.choice([0, 0, 5]),
            clicked_at_ms=random.choice([0, 0, 5]),
            confirmed_at_ms=random.choice([0, 7]),
        )
        for number in range(250)
    ]
    async with open_store(tmp_path) as store:
        await store.claim_all("n1")
        await store.commit([Put(row) for row in rows])
        for app_id, experiment in (("a", "e"), ("b", "e"), ("a", "e2"), ("a", "none")):
            found = await store.notify.variant_counts(app_id, experiment)
            assert sorted(found, key=lambda one: one.variant) == model(rows, app_id, experiment)
