"""Settings: from flags, then HUBBUB_… variables, then a TOML file, then defaults. The first that says wins.

Every setting is one field of `Settings` with its meaning, unit and reason; flags, variables, the file's keys
and the help text are all made from it. Secrets have no flag, as every user of a machine can read those.
"""

import contextlib
import difflib
import ipaddress
import os
import re
import secrets
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from actors.feed.address import PARTITION_COUNT
from actors.feed.feed import FeedLimits
from protocol.limits import HOT_FOLLOWERS
from server.providers.reach import Reach, reach_of
from server.ratelimit import Rate, trusted_networks

ENV_PREFIX: Final = "HUBBUB_"
# Variables that are no settings of a node: of `hubbub chat` and `replay`, of the tests, of the launcher.
OTHER_VARIABLES: Final = frozenset(
    {
        "HUBBUB_CONFIG",
        "HUBBUB_URL",
        "HUBBUB_TOKEN",
        "HUBBUB_APP_KEY",
        "HUBBUB_APP_SECRET",
        "HUBBUB_LONG",
        "HUBBUB_SEED",
        "HUBBUB_LAUNCHER",
    }
)
SECRETS: Final = frozenset({"admin_token", "server_secret", "cluster_secret"})
SECRET_FILE: Final = "secret.key"
CLUSTER_SECRET_FILE: Final = "cluster.key"
DEFAULT_FILE: Final = "hubbub.toml"
_SIZE = re.compile(r"(\d+)\s*([KMG]?)i?B?", re.IGNORECASE)
_SIZE_FACTORS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[float, Meta(gt=0)]


class ConfigError(Exception):
    """The settings cannot be used; the message is one sentence that says what to do."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a node runs."""

    data_dir: Annotated[
        str, Meta(description="Folder of everything that is stored; made at the first start.")
    ] = "hubbub-data"
    host: Annotated[
        str, Meta(description="Address to listen on; 0.0.0.0 for all. This machine only, until you say so.")
    ] = "127.0.0.1"
    port: Annotated[
        Port, Meta(description="Port of the page, the HTTP API and WebSocket; 0: any free one.")
    ] = 8080
    bot_port: Annotated[Port, Meta(description="Port of the bot protocol; 0: any free one.")] = 8081
    public_url: Annotated[
        str,
        Meta(
            description="Where people reach this node, such as https://chat.example.com, if behind a proxy."
        ),
    ] = ""
    zone: Annotated[str, Meta(max_length=64, description="Where this node stands, told to clients.")] = ""
    node_id: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_.-]{0,64}$",
            description="This node's name; empty: made from the host's name.",
        ),
    ] = ""
    tls_cert: Annotated[
        str, Meta(description="PEM file of the certificate chain; with tls_key, serves TLS.")
    ] = ""
    tls_key: Annotated[str, Meta(description="PEM file of the certificate's private key.")] = ""
    origins: Annotated[
        list[str],
        Meta(description="Other sites whose pages may call this server, such as https://example.com."),
    ] = []
    trusted_proxies: Annotated[
        list[str],
        Meta(description="Addresses or networks whose X-Forwarded-For is believed, such as 10.0.0.0/8."),
    ] = []
    unlimited: Annotated[
        list[str],
        Meta(
            description="Addresses or networks without limits by address: this machine, or your backends. "
            "A proxy on this machine belongs into trusted_proxies."
        ),
    ] = msgspec.field(default_factory=lambda: ["127.0.0.0/8", "::1/128"])
    sign_up_open: Annotated[bool, Meta(description="Whether people may make accounts by themselves.")] = True
    admin_token: Annotated[
        str, Meta(description="Opens /metrics from elsewhere than this machine; at least 16 characters.")
    ] = ""
    server_secret: Annotated[
        str,
        Meta(
            description="64 hex digits that app secrets derive from; empty: data_dir/secret.key, made once."
        ),
    ] = ""
    synchronous: Annotated[
        Literal["full", "normal"],
        Meta(description="full: an ack survives a power cut. normal: faster, but it may lose the last acks."),
    ] = "full"
    log_format: Annotated[
        Literal["auto", "console", "json"],
        Meta(description="auto: console on a terminal, JSON lines elsewhere."),
    ] = "auto"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least that is logged.")
    ] = "info"
    max_file_bytes: Annotated[
        int,
        Meta(ge=1024, le=10 * (1 << 30), description="Largest upload; 25M: what mail accepts too."),
    ] = 25 * (1 << 20)
    max_connections: Annotated[
        int, Meta(ge=1, description="Open connections of this node; about 20 KB of memory each.")
    ] = 20_000
    max_connections_per_address: Annotated[
        int, Meta(ge=1, description="Open connections from one address; an office behind one fits.")
    ] = 500
    connections_per_s: Annotated[
        Positive, Meta(description="New connections per second from one address, in the long run.")
    ] = 20.0
    connections_burst: Annotated[
        Positive, Meta(description="New connections from one address at once, as after a restart.")
    ] = 500.0
    commands_per_s: Annotated[
        Positive, Meta(description="Commands per second of one session, in the long run; people type slower.")
    ] = 200.0
    commands_burst: Annotated[
        Positive, Meta(description="Commands of one session at once; a client that was offline catches up.")
    ] = 400.0
    creations_per_s: Annotated[
        Positive,
        Meta(description="Groups, joins, posts, comments, follows and the like per second of one user."),
    ] = 20.0
    creations_burst: Annotated[
        Positive, Meta(description="The same at once; a script that sets up a team, or a replay.")
    ] = 500.0
    requests_per_s: Annotated[
        Positive, Meta(description="HTTP requests per second from one address, in the long run.")
    ] = 50.0
    requests_burst: Annotated[
        Positive, Meta(description="HTTP requests from one address at once; a page with many pictures.")
    ] = 500.0
    failures_per_name_per_h: Annotated[
        Positive, Meta(description="Failed log-ins per hour with one name, after the first ten.")
    ] = 60.0
    failures_per_address_per_h: Annotated[
        Positive, Meta(description="Failed log-ins per hour from one address, after the first fifty.")
    ] = 360.0
    sign_ups_per_address_per_h: Annotated[
        Positive, Meta(description="New accounts per hour from one address, after the first twenty.")
    ] = 120.0
    hot_followers: Annotated[
        int,
        Meta(
            ge=1,
            description="From so many followers on, posts are merged into feeds when they are read; "
            "below nine tenths of it they are pushed again. The same on all nodes.",
        ),
    ] = HOT_FOLLOWERS
    feed_ttl_days: Annotated[
        float,
        Meta(
            ge=0, description="A feed that nobody has read for so long is not kept, and made anew when read."
        ),
    ] = 7.0
    max_feeds: Annotated[
        int, Meta(ge=32, description="Feeds kept at most; about 10 KB of memory each, most of it follows.")
    ] = 200_000
    notify_networks: Annotated[
        list[str],
        Meta(
            description="Addresses or networks beyond the public internet into which apps may have "
            "notifications sent, by webhooks, providers and push endpoints; 127.0.0.0/8 for the sandbox."
        ),
    ] = []
    drain_s: Annotated[
        float, Meta(ge=0, le=300, description="How long SIGTERM waits for work in flight before it stops.")
    ] = 10.0

    cluster: Annotated[
        bool,
        Meta(description="Whether this node is one of several that share the data; `join` implies it."),
    ] = False
    join: Annotated[
        list[str],
        Meta(description="HOST:PORT of other nodes of the cluster; those on the same data are found anyway."),
    ] = []
    cluster_host: Annotated[
        str,
        Meta(description="Where other nodes reach this one; beyond this machine it needs cluster_secret."),
    ] = "127.0.0.1"
    cluster_port: Annotated[
        Annotated[int, Meta(ge=0, le=65534)],
        Meta(description="Port for other nodes; the one after it is used too. 0: any two free ones."),
    ] = 8082
    cluster_advertise: Annotated[
        str,
        Meta(
            description="HOST:PORT at which other nodes reach this one, if that is not cluster_host and "
            "cluster_port: behind NAT, or in a container."
        ),
    ] = ""
    cluster_secret: Annotated[
        str,
        Meta(
            description="What all nodes of the cluster know and nobody else, at least 16 characters; "
            "needed beyond this machine."
        ),
    ] = ""
    cluster_ca: Annotated[
        str,
        Meta(description="PEM file of the authority whose certificates nodes show each other (mutual TLS)."),
    ] = ""
    cluster_cert: Annotated[
        str, Meta(description="PEM file of this node's certificate, signed by cluster_ca.")
    ] = ""
    cluster_key: Annotated[str, Meta(description="PEM file of that certificate's private key.")] = ""

    @property
    def is_clustered(self) -> bool:
        return self.cluster or bool(self.join)

    @property
    def is_tls(self) -> bool:
        return bool(self.tls_cert)

    @property
    def data_path(self) -> Path:
        return Path(self.data_dir)

    @property
    def commands(self) -> Rate:
        return Rate(self.commands_per_s, self.commands_burst)

    @property
    def creations(self) -> Rate:
        return Rate(self.creations_per_s, self.creations_burst)

    @property
    def requests(self) -> Rate:
        return Rate(self.requests_per_s, self.requests_burst)

    @property
    def feeds(self) -> FeedLimits:
        return FeedLimits(
            hot_followers=self.hot_followers,
            cool_followers=self.hot_followers * 9 // 10,
            ttl_s=self.feed_ttl_days * 24 * 3600,
            max_feeds=self.max_feeds // PARTITION_COUNT,
        )

    @property
    def notify_reach(self) -> Reach:
        return reach_of(self.notify_networks)

    @property
    def connections(self) -> Rate:
        return Rate(self.connections_per_s, self.connections_burst)


DEFAULTS: Final = Settings()
FIELDS: Final = {field.name: field for field in msgspec.structs.fields(Settings)}


class Loaded(msgspec.Struct, frozen=True):
    """Settings, and for each of them where it comes from: `flag`, a variable, a file, or `default`."""

    settings: Settings
    sources: dict[str, str]


def describe(name: str) -> str:
    """The meaning of a setting, as its field tells it."""
    for part in typing.get_args(FIELDS[name].type):
        if isinstance(part, Meta) and part.description:
            return part.description
    raise AssertionError(f"{name} has no description")


def base_type(name: str) -> Any:
    """The plain type of a setting: str, int, float, bool, list, or a Literal."""
    kind: Any = FIELDS[name].type
    while typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    return typing.get_origin(kind) if typing.get_origin(kind) is list else kind


def load(
    flags: Mapping[str, Any], environ: Mapping[str, str], *, config_file: str = "", is_checked: bool = True
) -> Loaded:
    """Gather the settings. `flags` holds only what was given.

    Each value is converted and within its own limits; with `is_checked` they also go together.

    Without `config_file`, HUBBUB_CONFIG names the file, or hubbub.toml in the current folder is read if it
    exists. Raises: ConfigError.
    """
    values: dict[str, Any] = {}
    sources = dict.fromkeys(FIELDS, "default")
    path = config_file or environ.get("HUBBUB_CONFIG", "")
    if path or Path(DEFAULT_FILE).is_file():
        path = path or DEFAULT_FILE
        for key, value in _read_file(path).items():
            values[key] = _converted(key, value, f"{key} in {path}")
            sources[key] = path
    for variable, text in environ.items():
        if not variable.startswith(ENV_PREFIX) or variable in OTHER_VARIABLES:
            continue
        key = variable.removeprefix(ENV_PREFIX).lower()
        if key not in FIELDS:
            # Others may use the prefix too; only what looks like a slip is one.
            near = difflib.get_close_matches(key, FIELDS, n=1, cutoff=0.7)
            if near:
                raise ConfigError(f"{variable} is not a setting; did you mean {ENV_PREFIX}{near[0].upper()}?")
            continue
        if not text.isprintable():  # bytes that are no UTF-8 come as what no encoder takes
            raise ConfigError(f"{variable} has characters that are no text; write what is binary in hex.")
        values[key] = _converted(key, _parsed(key, text), variable)
        sources[key] = variable
    for key, value in flags.items():
        flag = "--" + key.replace("_", "-")
        values[key] = _converted(key, _parsed(key, value) if isinstance(value, str) else value, flag)
        sources[key] = flag
    settings = Settings(**values)
    if is_checked:
        _check(settings)
    return Loaded(settings, sources)


def _read_file(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"There is no settings file {path}; correct --config or HUBBUB_CONFIG.") from None
    except OSError as exc:
        raise ConfigError(f"The settings file {path} cannot be read: {exc.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"The settings file {path} is not valid TOML: {exc}.") from None
    for key in table:
        if key not in FIELDS:
            near = difflib.get_close_matches(key, FIELDS, n=1)
            hint = f"did you mean {near[0]}?" if near else "`hubbub config` lists all settings."
            raise ConfigError(f"{path} has {key!r}, which is not a setting; {hint}")
    return table


def _parsed(key: str, text: str) -> Any:
    """Turn the text of a flag or variable into what a TOML file would hold."""
    kind = base_type(key)
    if kind is list:
        return [part.strip() for part in text.split(",") if part.strip()]
    if kind is bool:
        lowered = text.strip().lower()
        if lowered in ("1", "true", "yes", "on"):
            return True
        if lowered in ("0", "false", "no", "off"):
            return False
    if kind in (int, float):
        size = _SIZE.fullmatch(text.strip()) if key.endswith("_bytes") else None
        if size is not None:
            return int(size[1]) * _SIZE_FACTORS[size[2].upper()]
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _converted(key: str, value: Any, where: str) -> Any:
    if key.endswith("_bytes") and isinstance(value, str):
        value = _parsed(key, value)
    try:
        return msgspec.convert(value, FIELDS[key].type)
    except msgspec.ValidationError as exc:
        choices = typing.get_args(base_type(key))  # of a Literal
        wanted = f"it is one of {', '.join(choices)}" if choices and base_type(key) is not list else str(exc)
        raise ConfigError(f"{where} cannot be {value!r}: {wanted}. Its meaning: {describe(key)}") from None


def _check(settings: Settings) -> None:
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise ConfigError("tls_cert and tls_key belong together; set both, or neither.")
    for name in ("tls_cert", "tls_key"):
        path = getattr(settings, name)
        if path and not Path(path).is_file():
            raise ConfigError(f"{name} names {path}, which is not a file; correct the path.")
    for origin in settings.origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query:
            raise ConfigError(
                f"origins has {origin!r}; an origin is a scheme and a host, such as https://example.com."
            )
    if settings.public_url:
        parts = urlsplit(settings.public_url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path not in ("", "/"):
            raise ConfigError(
                f"public_url is {settings.public_url!r}; it is a scheme and a host, such as https://example.com."
            )
    try:
        trusted_networks(tuple(settings.trusted_proxies))
        trusted_networks(tuple(settings.unlimited))
    except ValueError as exc:
        raise ConfigError(
            f"trusted_proxies or unlimited cannot be used: {exc}; write 10.0.0.1 or 10.0.0.0/8."
        ) from None
    try:
        reach_of(settings.notify_networks)
    except ValueError as exc:
        raise ConfigError(f"notify_networks cannot be used: {exc}; write 10.0.0.1 or 10.0.0.0/8.") from None
    if settings.admin_token and len(settings.admin_token) < 16:
        raise ConfigError("admin_token is too short to keep anybody out; use at least 16 characters.")
    if settings.server_secret and not re.fullmatch(r"[0-9a-fA-F]{64}", settings.server_secret):
        raise ConfigError("server_secret must be 64 hex digits; `openssl rand -hex 32` makes some.")
    _check_cluster(settings)
    if settings.port and settings.port == settings.bot_port:
        raise ConfigError(f"port and bot_port are both {settings.port}; give one of them another number.")


def split_address(address: str, name: str) -> tuple[str, int]:
    """Read HOST:PORT of a node; the port after it is used too. Raises: ConfigError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65535:
        raise ConfigError(f"{name} has {address!r}; write HOST:PORT, such as 10.0.0.5:8082.")
    return host.strip("[]"), int(port)


def _check_cluster(settings: Settings) -> None:
    for address in settings.join:
        split_address(address, "join")
    if settings.cluster_advertise:
        split_address(settings.cluster_advertise, "cluster_advertise")
    elif settings.is_clustered and settings.cluster_host in ("0.0.0.0", "::", ""):
        raise ConfigError(
            f"cluster_host is {settings.cluster_host}, where nobody can be reached: name one address of this "
            "machine, or set cluster_advertise to the HOST:PORT that other nodes use."
        )
    files = ("cluster_ca", "cluster_cert", "cluster_key")
    given = [name for name in files if getattr(settings, name)]
    if given and len(given) < len(files):
        raise ConfigError("cluster_ca, cluster_cert and cluster_key belong together; set all three, or none.")
    for name in given:
        if not Path(getattr(settings, name)).is_file():
            raise ConfigError(
                f"{name} names {getattr(settings, name)}, which is not a file; correct the path."
            )
    if settings.cluster_secret and len(settings.cluster_secret) < 16:
        raise ConfigError("cluster_secret is too short to keep anybody out; use at least 16 characters.")
    if settings.is_clustered and not settings.cluster_secret and not _is_loopback(settings.cluster_host):
        raise ConfigError(
            f"cluster_host is {settings.cluster_host}, which others reach too: set cluster_secret, the same "
            "on all nodes; `openssl rand -hex 32` makes one."
        )
    if settings.is_clustered and settings.cluster_port:
        taken = {settings.cluster_port, settings.cluster_port + 1}
        for name in ("port", "bot_port"):
            if getattr(settings, name) in taken:
                raise ConfigError(
                    f"{name} is {getattr(settings, name)}, which is one of the two cluster ports; "
                    "give one of them another number."
                )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def server_secret(settings: Settings) -> bytes:
    """Return the 32 bytes that app secrets and file signatures derive from; make secret.key at the first use.

    Whoever has them can sign as any user of any app: the file is for its owner alone (0600) and belongs into
    a backup that is kept as safe. Raises: ConfigError.
    """
    if settings.server_secret:
        return bytes.fromhex(settings.server_secret)
    return _secret_of(settings, SECRET_FILE)


def cluster_secret(settings: Settings) -> str:
    """Return what the nodes of this directory know of each other; make cluster.key at the first use.

    A lost one is made anew, once all nodes are down: nothing stored depends on it. Raises: ConfigError.
    """
    return settings.cluster_secret or _secret_of(settings, CLUSTER_SECRET_FILE).hex()


def _secret_of(settings: Settings, file_name: str) -> bytes:
    path = settings.data_path / file_name
    try:
        settings.data_path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _make_secret(path)
        secret = path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path} cannot be used: {exc.strerror}; check data_dir and its owner.") from None
    if len(secret) != 32:
        raise ConfigError(f"{path} has {len(secret)} bytes instead of 32; restore it from a backup.")
    return secret


def _make_secret(path: Path) -> None:
    """Write the file whole before it gets its name, and let the first of two processes win."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
