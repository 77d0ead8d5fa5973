"""Limits and intervals of the protocol, each with its reason. Units ride in the names."""

from typing import Final

MAX_TEXT_BYTES: Final = 100 * 1024  # the promise of the product: texts to 100 KB
MAX_FRAME_BYTES: Final = 640 * 1024  # a 100 KB text at JSON's worst, \u0000: six bytes per byte; its envelope
MAX_GROUP_MEMBERS: Final = 500  # receipts and unread counts stay exact up to here
MAX_MENTIONS: Final = 50  # each one alerts somebody; a whole group is not alerted by one message
MAX_FILES: Final = 20  # attachments of one message
MAX_REACTION_KINDS: Final = 50  # different emoji on one message
MAX_TITLE_CHARS: Final = 200  # one line of a conversation list
MAX_NAME_CHARS: Final = 64  # stands before each message
MAX_CURSORS: Final = 1000  # cursors in one hello, heartbeat or ack
MAX_PAGE: Final = 500  # events or messages in one answer
PAGE_BYTES: Final = 192 * 1024  # a page ends early rather than exceed a frame
MAX_IDS: Final = 500  # user ids in one command: a whole group at once
MAX_WATCHED_USERS: Final = 2000  # presence subscriptions of one session
MAX_SAFE_INTEGER: Final = 2**53 - 1  # JavaScript's largest exact integer

MAX_POST_TEXT_BYTES: Final = 10 * 1024  # a post is read in passing; longer texts are files
MAX_COMMENT_TEXT_BYTES: Final = 4 * 1024  # a page of 100 stays within one frame
MAX_HASHTAGS: Final = 30  # of one post, as elsewhere; each is counted in the trends
MAX_FOLLOWING: Final = 10_000  # authors that one user follows: a pull of the feed stays within 100 ms
MAX_INTERESTS: Final = 1_000  # "not interested" of one user; the oldest gives way
MAX_MUTED: Final = 10_000  # users whom one user has muted
FEED_CAP: Final = 800  # entries kept of one feed; what is older is read by pull
HOT_FOLLOWERS: Final = 10_000  # from here on posts are merged in when feeds are read
COOL_FOLLOWERS: Final = 9_000  # below this they are pushed again: a count at the threshold does not flap
AD_EVERY: Final = 5  # organic posts before each ad
MAX_WATCHED_POSTS: Final = 200  # posts whose counts one session hears live
POST_COUNTS_TICK_S: Final = 0.25  # a burst of likes is a few events
FEED_NEWS_TICK_S: Final = 0.4  # posts of hot authors are told together, within half a second

HELLO_TIMEOUT_S: Final = 10.0  # a connection that says nothing costs a socket
HANDSHAKE_TIMEOUT_S: Final = 10.0  # TLS and HTTP upgrade
HEARTBEAT_INTERVAL_S: Final = 30.0  # jittered by the client; two fit into the time-out
HEARTBEAT_TIMEOUT_S: Final = 60.0  # silence after which a device counts as gone
PRESENCE_DEBOUNCE_S: Final = 10.0  # a shorter drop is not shown
AWAY_AFTER_S: Final = 300.0  # connected, but the person has not been active
PRESENCE_TICK_S: Final = 0.25  # presence, receipts and heads are batched for this long
RECEIPT_TICK_S: Final = 0.25  # 500 members reading at once are a few events, not 250,000
HEADS_TICK_S: Final = 1.0  # conversations that are not on the screen
TYPING_TIMEOUT_S: Final = 6.0  # a typing mark ends by itself
EDIT_WINDOW_MS: Final = 24 * 3600 * 1000  # what others have read and acted on stays; admins may still delete

MAX_UNACKED_SENDS: Final = 32  # per session; then its socket is not read
MAX_UNACKED_BYTES: Final = 64 * 1024  # the same in bytes; a longer command is read when below
MAX_MAILBOX: Final = 256  # per actor; then busy
MAX_OUTBOX_FRAMES: Final = 512  # per session; then events are replaced by one resync
MAX_OUTBOX_BYTES: Final = 256 * 1024  # the same in bytes: 2,000 stalled clients hold 512 MB at most
WRITE_TIMEOUT_S: Final = 10.0  # a blocked write ends the connection
