"""Bodies of the HTTP API that are not commands or replies already. OpenAPI is made from these.

Decoded and checked by the server like everything else; answers hold only what their reader may see.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.types import AtMs, Count, DeviceSession, FileId, Name, NodeInfo, Profile, UserId

MAX_PASSWORD_FIELD_CHARS = 1024  # what is read at all; the rule for passwords is stricter and says why

AppId = Annotated[str, Meta(max_length=64, description="The app to be signed in to; empty: the default app.")]
UserName = Annotated[
    str, Meta(min_length=1, max_length=64, description="2 to 32 letters, digits, dots, hyphens, underscores.")
]
Password = Annotated[str, Meta(max_length=MAX_PASSWORD_FIELD_CHARS, description="8 to 256 characters.")]
DeviceName = Annotated[str, Meta(max_length=100, description="How the list of sessions shows this log-in.")]
ExternalId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]*$(?!\n)",  # as a token's sub; types.ID_PATTERN explains the end
        description="The user's id in the app's own system, without control characters.",
    ),
]
Language = Annotated[str, Meta(max_length=35, description="BCP 47, such as pt-BR.")]
TimeZone = Annotated[str, Meta(max_length=64, description="IANA name, such as Europe/Berlin.")]


class _Body(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class ErrorBody(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Every answer of status 400 or above. `code` is stable; `message` is for a person and may change."""

    code: str
    message: str
    retry_after_s: Annotated[
        float | None, Meta(description="Set where the same request may succeed after that many seconds.")
    ] = None


# -- signing in -------------------------------------------------------------------------------------


class SignUp(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Make an account and sign in to it."""

    username: UserName
    password: Password
    name: Annotated[str, Meta(max_length=64, description="Shown to others; empty: the user name.")] = ""
    app_id: AppId = ""
    device_name: DeviceName = ""


class LogIn(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Sign in with a password."""

    username: UserName
    password: Password
    app_id: AppId = ""
    device_name: DeviceName = ""


class SignedIn(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """A new log-in. The token is shown this once; send it as `Authorization: Bearer …` and in hello."""

    token: str
    session_id: str
    user: Profile
    app_id: str
    expires_at_ms: Annotated[
        AtMs, Meta(description="When it ends even if it is used; 0: only after lying idle.")
    ] = 0


class ChangePassword(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Change the own password; every other log-in ends."""

    old_password: Password
    new_password: Password


class Me(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Who the bearer of the token is."""

    user: Profile
    app_id: str
    session_id: str
    expires_at_ms: AtMs = 0


class UpdateMe(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Change the own profile; absent fields stay."""

    name: Name | None = None
    avatar: (
        Annotated[str, Meta(max_length=64, description="Id of an uploaded picture; empty: none.")] | None
    ) = None
    language: Language | None = None
    time_zone: TimeZone | None = None


class Sessions(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """All log-ins of the signed-in user, the latest used first."""

    items: list[DeviceSession]


class Users(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Users of this app; ids that are unknown are left out."""

    items: list[Profile]


# -- bots -------------------------------------------------------------------------------------------


class CreateBot(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Make a bot of one's own."""

    username: UserName
    name: Annotated[str, Meta(max_length=64)] = ""


class BotToken(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """A bot and its new token, which is shown this once and works until it is rotated."""

    user: Profile
    token: str


# -- for the backend of an app ----------------------------------------------------------------------


class ProvisionUser(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """A user of the app's own system. Made at the first call; later calls find it and change nothing."""

    external_id: ExternalId
    username: Annotated[
        str, Meta(max_length=64, description="Wished for; another is given where it cannot be had.")
    ] = ""
    name: Annotated[str, Meta(max_length=64)] = ""
    language: Language = ""
    time_zone: TimeZone = ""


class ProvisionUsers(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Make or find up to 500 users."""

    users: Annotated[list[ProvisionUser], Meta(min_length=1, max_length=500)]


class Provisioned(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """One user that was made or found."""

    external_id: ExternalId
    user: Profile
    created: bool = False


class ProvisionedUsers(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """In the order of the request."""

    items: list[Provisioned]


class IssueToken(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Sign a user in on that user's behalf; the other way is a JWT signed with the app secret."""

    user_id: UserId
    ttl_s: Annotated[int, Meta(ge=60, le=30 * 86400, description="How long it works, in seconds.")] = 3600
    device_name: DeviceName = ""


# -- files and the rest -----------------------------------------------------------------------------


class FileInfo(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """A stored file. Pictures have their size in pixels; only they are shown in place, all else downloads."""

    file_id: FileId
    name: str
    media_type: str
    size_bytes: Count
    width: int = 0
    height: int = 0
    at_ms: AtMs = 0


class FileSig(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Append `?sig=…` to the address of any file of this app, so that an <img> can show it."""

    sig: str
    expires_at_ms: AtMs


class Nodes(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Where to connect, best first."""

    items: list[NodeInfo]


class ClusterMember(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """One node, as another one (or itself) sees it."""

    node_id: str
    boot: Annotated[int, Meta(description="Rises with every start of the node.")] = 0
    status: Annotated[
        str, Meta(description="By gossip: alive, suspect, dead or left; empty: not heard of.")
    ] = ""
    address: Annotated[str, Meta(description="HOST:PORT for other nodes.")] = ""
    url: Annotated[str, Meta(description="Of its WebSocket, as in `Nodes`; empty: not known.")] = ""
    zone: str = ""
    incarnation: Annotated[int, Meta(description="Rises when it refutes what others say of it.")] = 0
    is_reachable: Annotated[bool, Meta(description="Whether messages to it get through now.")] = False
    is_draining: bool = False
    lease_left_ms: Annotated[Count, Meta(description="By the store; at 0 its shards may be taken.")] = 0
    shard_count: Count = 0
    connection_count: Count = 0
    loop_lag_s: Annotated[float, Meta(description="By how much its event loop was late, lately.")] = 0.0
    load: Annotated[float, Meta(description="0: idle; 1: it turns newcomers away.")] = 0.0


class ClusterView(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """What one node knows of itself and of its cluster. For this machine, or with the admin token."""

    node_id: str
    boot: int = 0
    version: str = ""
    is_draining: bool = False
    members: Annotated[list[ClusterMember], Meta(description="All it has heard of, itself included.")] = []
    shards_owned: Annotated[Count, Meta(description="That it may write now, its lease considered.")] = 0
    connection_count: Count = 0
    loop_lag_s: float = 0.0
    load: float = 0.0
    presence_users: Annotated[Count, Meta(description="Users it takes for connected, on any node.")] = 0
    presence_digest: Annotated[
        str, Meta(description="Equal on nodes that agree on who is connected where.")
    ] = ""
    refused: Annotated[
        dict[str, int],
        Meta(description="What was turned away on the cluster port since the start, by reason."),
    ] = {}


class Health(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """`ok`, or what keeps this node from serving."""

    status: str
    version: str = ""
