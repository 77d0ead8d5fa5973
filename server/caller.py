"""Who gives a command."""

import msgspec

from server.identity import Identity


class Caller(msgspec.Struct, frozen=True):
    """Who gives a command, and over which connection; 0: by HTTP."""

    identity: Identity
    conn_id: int = 0
    device_id: str = ""

    @property
    def user_id(self) -> str:
        return self.identity.user.user_id

    @property
    def app_id(self) -> str:
        return self.identity.app_id
