"""Suppressions for addresses that were retired before there were any: once, when a directory is brought up.

A row of such an address has the provider's word for it (`retired_for`), which tells who said so: the person
(STOP, a complaint) or a machine (a bounce, a number that is none). Where the word does not tell, it counts as
the person's: one opt-in that has to be asked for again is milder than one message after STOP. Addresses that
were registered again since are alive, and stay so.
"""

import re
import sqlite3
from typing import Final

from protocol.notify_records import NotifyDeviceRow, SuppressionRow

# Of Twilio's errors those of numbers that are none; of Vonage 33 as an answer, 3 and 4 in receipts.
_DEAD_NUMBERS: Final = frozenset(("21211", "21214", "21612", "21614", "21635", "33", "3", "4", "retire"))
_DEAD_WORDS: Final = frozenset(("bad_address", "bounced_hard", "bounced", "bounce", "retire"))
# SMTP's replies, enhanced codes in bounces, SES's bounce types. SendGrid says 5.0.0 also of what it dropped
# because its reader had unsubscribed.
_DEAD_MAIL: Final = re.compile(r"5\d\d|5\.(?!0\.0$)\d+\.\d+|Permanent/\w+")

_FIND: Final = f"""
SELECT v.app_id, v.device_key, v.channel, v.retired_for, v.retired_at_ms FROM {NotifyDeviceRow.table} v
WHERE v.retired_at_ms > 0 AND v.channel IN ('email', 'sms') AND NOT EXISTS (
    SELECT 1 FROM {NotifyDeviceRow.table} a
    WHERE a.app_id = v.app_id AND a.channel = v.channel AND a.address = v.address
    AND a.retired_at_ms = 0 AND a.registered_at_ms > v.retired_at_ms)
"""
_KEEP: Final = f"""
INSERT OR IGNORE INTO {SuppressionRow.table} (app_id, device_key, kind, code, at_ms) VALUES (?, ?, ?, ?, ?)
"""


def kind_of_code(channel: str, code: str) -> str:
    """The kind of suppression that a provider's word for a retired address makes: dead, or else stopped."""
    if channel == "sms":
        return "dead" if code in _DEAD_NUMBERS else "stopped"
    return "dead" if code in _DEAD_WORDS or _DEAD_MAIL.fullmatch(code) else "stopped"


def suppress_retired(connection: sqlite3.Connection) -> None:
    """Add the suppressions that are missing; what is there stays as it is. Both tables exist."""
    rows = [
        (app_id, device_key, kind_of_code(channel, code), code or "retired", at_ms)
        for app_id, device_key, channel, code, at_ms in connection.execute(_FIND)
    ]
    rows.sort(key=lambda row: row[2] != "stopped")  # of two users with one address: who said stop counts
    connection.executemany(_KEEP, rows)
