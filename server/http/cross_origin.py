"""Which foreign pages may call the API: those the operator names, and those of the cluster's other nodes."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from litestar.config.cors import CORSConfig


@dataclass
class _LiveOrigins(CORSConfig):
    """Litestar's rules, with origins that come and go while the node runs."""

    live_origins: Callable[[], Collection[str]] = frozenset

    def is_origin_allowed(self, origin: str) -> bool:
        return super().is_origin_allowed(origin) or origin in self.live_origins()


def cross_origin(named: Sequence[str], live: Callable[[], Collection[str]]) -> CORSConfig:
    """Make the CORS rules: `named` origins always, and those that `live` lists at the time of the request."""
    return _LiveOrigins(
        allow_origins=list(named),
        allow_methods=["GET", "POST", "PATCH", "DELETE"],
        allow_headers=["authorization", "content-type", "range", "if-none-match"],
        expose_headers=["content-range", "etag", "retry-after"],
        max_age=3600,
        live_origins=live,
    )
