"""Views for people: what is stored, as one would say it, for Datasette and the sqlite-utils command line.

The product itself does not read them, so they may change with any release. No secret or hash is shown.
"""

from typing import Final

_TIME = "strftime('%Y-%m-%d %H:%M:%S', {} / 1000, 'unixepoch')"


def _time(column: str, name: str) -> str:
    return f"CASE WHEN {column} > 0 THEN {_TIME.format(column)} END AS {name}"


VIEWS: Final[dict[str, str]] = {
    "messages": f"""
        SELECT c.title AS conversation, u.name AS sender,
            CASE WHEN coalesce(m.deleted_at_ms, 0) > 0 THEN NULL
                ELSE coalesce(m.text, json_extract(l.body, '$.text')) END AS text,
            {_time("l.at_ms", "sent_at")}, {_time("m.edited_at_ms", "edited_at")},
            {_time("m.deleted_at_ms", "deleted_at")}, m.reactions, l.thread, l.seq,
            substr(s.name, 3) AS conversation_id, l.user_id, l.client_id, l.lsn
        FROM log l
        JOIN stream s USING (stream_id)
        LEFT JOIN conversation c ON c.conversation_id = substr(s.name, 3)
        LEFT JOIN user_account u ON u.user_id = l.user_id
        LEFT JOIN message_state m ON m.conversation_id = substr(s.name, 3) AND m.seq = l.seq
        WHERE l.is_message = 1""",
    "events": f"""
        SELECT s.name AS stream, l.seq, l.kind, u.name AS user, {_time("l.at_ms", "at")}, l.body, l.lsn
        FROM log l JOIN stream s USING (stream_id) LEFT JOIN user_account u ON u.user_id = l.user_id""",
    "conversations": f"""
        SELECT c.kind, CASE c.kind WHEN 'direct' THEN coalesce(a.name, c.user_a) || ' and ' ||
                coalesce(b.name, c.user_b) ELSE c.title END AS title,
            c.member_count, h.message_count, h.seq AS head, {_time("h.at_ms", "last_event_at")},
            {_time("c.created_at_ms", "created_at")}, c.conversation_id, c.app_id
        FROM conversation c
        LEFT JOIN user_account a ON a.user_id = c.user_a
        LEFT JOIN user_account b ON b.user_id = c.user_b
        LEFT JOIN stream s ON s.name = 'c:' || c.conversation_id
        LEFT JOIN log h ON h.stream_id = s.stream_id
            AND h.seq = (SELECT max(seq) FROM log WHERE log.stream_id = s.stream_id)""",
    "members": f"""
        SELECT c.title AS conversation, u.name AS user, m.role,
            coalesce(h.message_count, 0) - m.read_count - (
                SELECT count(*) FROM message_state d WHERE d.conversation_id = m.conversation_id
                AND d.seq > m.read_seq AND d.deleted_at_ms > 0) AS unread,
            m.read_seq, m.delivered_seq, h.seq AS head, {_time("m.joined_at_ms", "joined_at")},
            m.conversation_id, m.user_id
        FROM member m
        LEFT JOIN conversation c USING (conversation_id)
        LEFT JOIN user_account u ON u.user_id = m.user_id
        LEFT JOIN stream s ON s.name = 'c:' || m.conversation_id
        LEFT JOIN log h ON h.stream_id = s.stream_id
            AND h.seq = (SELECT max(seq) FROM log WHERE log.stream_id = s.stream_id)""",
    "users": f"""
        SELECT a.name AS app, u.username, u.name, u.is_bot, u.language, u.time_zone,
            {_time("l.at_ms", "last_seen_at")}, {_time("u.created_at_ms", "created_at")},
            {_time("d.at_ms", "disabled_at")}, u.user_id, u.app_id
        FROM user_account u LEFT JOIN app a USING (app_id) LEFT JOIN last_seen l ON l.user_id = u.user_id
        LEFT JOIN disabled_user d ON d.user_id = u.user_id""",
    "sessions": f"""
        SELECT u.username, s.device_name, {_time("s.created_at_ms", "created_at")},
            {_time("x.last_seen_ms", "last_seen_at")}, {_time("s.expires_at_ms", "expires_at")},
            s.session_id, s.user_id
        FROM session s LEFT JOIN user_account u ON u.user_id = s.user_id
        LEFT JOIN session_use x ON x.session_id = s.session_id""",
}
