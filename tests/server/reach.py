"""Where the apps of tests may have notifications sent: to the sandbox and to webhooks of this machine."""

from typing import Final

from server.providers.reach import Reach, reach_of

NETWORKS: Final = ("127.0.0.0/8", "::1/128")
HERE: Final[Reach] = reach_of(NETWORKS)
