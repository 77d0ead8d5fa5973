"""Records of notifications as tables, for bench/notify_check.py: by plain SQL and the standard library."""

import json
import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

SHOWN: Final = 5  # violations of one kind that are told in full


class Said(NamedTuple):
    """A row of the ledger."""

    kind: str
    at_ms: int
    decisions: list[list[str]]


class Violations:
    """Violations by kind; of each kind the first few in full."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, detail: str) -> None:
        self._found[kind].append(detail)

    def told(self) -> list[str]:
        return [
            f"{kind}: {len(details)} ({'; '.join(details[:SHOWN])})" for kind, details in self._found.items()
        ]


class Records:
    """The tables, read at once."""

    def __init__(self, database: Path) -> None:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30.0)) as db:
            db.row_factory = sqlite3.Row
            db.execute("BEGIN")  # one moment for all of it
            self.notes = {row["notification_id"]: row for row in db.execute("SELECT * FROM notification")}
            self.deliveries = {
                (row["notification_id"], row["number"]): row for row in db.execute("SELECT * FROM delivery")
            }
            self.zones: dict[str, str] = {}
            self.people: set[str] = set()
            for row in db.execute("SELECT user_id, time_zone, is_bot FROM user_account"):
                self.zones[row["user_id"]] = row["time_zone"]
                if not row["is_bot"]:
                    self.people.add(row["user_id"])
            self.wishes: dict[str, dict[str, Any]] = {
                row["user_id"]: json.loads(row["preferences"] or "{}")
                for row in db.execute("SELECT user_id, preferences FROM notify_user")
            }
            self.consents = {
                (row["user_id"], row["purpose"]): row["ends_at_ms"]
                for row in db.execute("SELECT user_id, purpose, ends_at_ms FROM notify_consent")
            }
            self.devices = {
                (row["user_id"], row["device_key"]): row["address"]
                for row in db.execute("SELECT user_id, device_key, address FROM notify_device")
            }
            self.types: dict[str, dict[str, Any]] = {
                row["name"]: json.loads(row["body"]) for row in db.execute("SELECT * FROM notify_type")
            }
            rules = db.execute("SELECT rules FROM notify_app").fetchone()
            self.rules: dict[str, Any] = json.loads(rules["rules"] or "{}") if rules else {}
            self.requests = {row["request_id"]: row for row in db.execute("SELECT * FROM notify_request")}
            self.ledger: dict[int, list[Said]] = defaultdict(list)
            for row in db.execute(
                "SELECT l.kind, l.at_ms, l.thread, l.body FROM log l JOIN stream s USING (stream_id)"
                " WHERE s.name GLOB 'n:*' AND l.thread IS NOT NULL ORDER BY l.stream_id, l.seq"
            ):
                decisions = [_padded(one) for one in json.loads(row["body"]).get("d", [])]
                self.ledger[row["thread"]].append(Said(row["kind"], row["at_ms"], decisions))

    def rule(self, type_name: str) -> dict[str, Any]:
        return self.types.get(type_name, {})


def _padded(decision: list[str]) -> list[str]:
    return [*decision, "", ""][:4]
