"""What users import: the Python client and the bot SDK. Of our folders it imports `protocol` only.

    async with hubbub.Accounts("http://127.0.0.1:8080") as accounts:
        login = await accounts.log_in("ann", password)
    async with hubbub.connect("http://127.0.0.1:8080", token=login.token) as client:
        await client.send(conversation_id, "hello")
        await client.posts.create("hello, followers")
        async for event in client.events(): ...

Owns connecting, reconnecting, resuming, ordering and the bot framework. Leaves to others: every rule of chat
(the server's) and everything that is drawn (web/, except the terminal client here).
"""

from hubbub.accounts import Accounts, AppBackend, sign_user_token
from hubbub.asker import Ticket
from hubbub.bot import Bot, Context, Invocation
from hubbub.bot_posts import PostContext
from hubbub.client import Client, connect
from hubbub.connection import Backoff
from hubbub.cursors import CursorStore, FileCursors, MemoryCursors, SavedCursors
from hubbub.errors import ClientClosed, ConnectionEnded, ConnectionLost
from hubbub.notification_watch import NotificationWatch
from hubbub.notifications import Notifications
from hubbub.signing import sign_request
from protocol.errors import HubbubError, ProtocolError, Refused, Unavailable
from protocol.notify_content import NotifyRequest

__all__ = [
    "Accounts",
    "AppBackend",
    "Backoff",
    "Bot",
    "Client",
    "ClientClosed",
    "ConnectionEnded",
    "ConnectionLost",
    "Context",
    "CursorStore",
    "FileCursors",
    "HubbubError",
    "Invocation",
    "MemoryCursors",
    "NotificationWatch",
    "Notifications",
    "NotifyRequest",
    "PostContext",
    "ProtocolError",
    "Refused",
    "SavedCursors",
    "Ticket",
    "Unavailable",
    "connect",
    "sign_request",
    "sign_user_token",
]
