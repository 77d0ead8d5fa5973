"""The library h2 as our driver uses it: lean where it would be slow, and right about GOAWAY."""

from typing import Final

from h2.config import H2Configuration
from h2.connection import ConnectionInputs, ConnectionState, H2Connection, H2ConnectionStateMachine

from server.providers.header_block import BlockEncoder

_SWEEP_EVERY: Final = 64  # new streams
_CONFIG: Final = H2Configuration(
    client_side=True,
    header_encoding=None,
    # Our headers are right by construction, and of an answer we read two by name.
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
    validate_inbound_headers=False,
    normalize_inbound_headers=False,
)


_TRANSITIONS: Final = H2ConnectionStateMachine._transitions | {
    (ConnectionState.CLIENT_OPEN, ConnectionInputs.RECV_GOAWAY): (None, ConnectionState.CLIENT_OPEN)
}


class _StateMachine(H2ConnectionStateMachine):
    """h2 takes GOAWAY for the end; by 6.8 the older streams go on to their answers."""

    def __init__(self) -> None:
        super().__init__()
        self._transitions = _TRANSITIONS


class ClientProtocol(H2Connection):
    """h2, without walking over all open streams for each new one: the driver counts them itself."""

    def __init__(self) -> None:
        super().__init__(_CONFIG)
        self.state_machine = _StateMachine()
        self.encoder = self.blocks = BlockEncoder()
        self._since_sweep = 0

    @property
    def open_outbound_streams(self) -> int:
        """Streams in flight, now and then (that also forgets closed ones), else 0."""
        self._since_sweep += 1
        if self._since_sweep < _SWEEP_EVERY:
            return 0
        self._since_sweep = 0
        return self._open_streams(1)
