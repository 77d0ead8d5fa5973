"""How long a provider's connections wait, and how much they hold."""

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Of one pool. All times in seconds."""

    connect_timeout_s: float = 10.0  # name, TCP, TLS and the peer's settings together
    request_timeout_s: float = 15.0  # from the call to the end of the answer, waiting for room included
    ping_after_s: float = 20.0  # of silence, with requests in flight or not; NATs forget after some minutes
    ping_timeout_s: float = 10.0  # without a byte after a ping the connection is dead
    idle_close_s: float = 600.0  # APNs wants long connections, and a push host that nobody uses none
    http1_idle_close_s: float = 4.0  # Node's server closes after 5 s, others later; a race costs an unknown
    max_streams: int = 200  # in flight per connection; the peer may allow less
    max_connections: int = 4  # by HTTP/2
    max_http1_connections: int = 32
    max_waiting: int = 10_000  # requests without a connection; each is one of a channel's own tasks
    max_response_bytes: int = 65_536  # of a body; more is cut off
    first_backoff_s: float = 0.5  # after a failed connect, doubled each time
    max_backoff_s: float = 30.0


DEFAULT_LIMITS = Limits()
