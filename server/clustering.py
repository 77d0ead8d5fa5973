"""From a node's settings to its part in the cluster: addresses, secrets, and what it says of itself."""

import hashlib
import ssl

from cluster.lanes import LaneTls
from cluster.node import ClusterSettings
from server.config import ConfigError, Settings, server_secret, split_address
from server.version import VERSION


def cluster_settings(settings: Settings, node_id: str) -> ClusterSettings:
    """What the cluster needs of the settings; they were checked when they were loaded."""
    tls = None
    if settings.cluster_ca:
        tls = LaneTls(ca=settings.cluster_ca, cert=settings.cluster_cert, key=settings.cluster_key)
        _check_files(settings)
    return ClusterSettings(
        node_id=node_id,
        host=settings.cluster_host,
        port=settings.cluster_port,
        secret=_lane_secret(settings),
        tls=tls,
        advertise=(
            split_address(settings.cluster_advertise, "cluster_advertise")
            if settings.cluster_advertise
            else None
        ),
        seeds=tuple(split_address(address, "join") for address in settings.join),
        zone=settings.zone,
        version=VERSION,
    )


def _lane_secret(settings: Settings) -> bytes:
    """What proves to other nodes that this one belongs to them: it knows their secret and shares their store.

    A node of another store owns all shards by its own table. Were it believed, clients would be sent to it,
    and it would ack what the others never see. So what only their store's nodes have goes into the secret.
    """
    return hashlib.blake2b(settings.cluster_secret.encode(), key=server_secret(settings)).digest()


def _check_files(settings: Settings) -> None:
    """Find out before anything is started that the certificate cannot be used. Raises: ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.cluster_cert, settings.cluster_key)
        context.load_verify_locations(settings.cluster_ca)
    except ssl.SSLError as exc:
        raise ConfigError(
            f"cluster_ca, cluster_cert and cluster_key cannot be used: {exc.reason or 'no PEM'}; "
            "the certificate and the key must belong together."
        ) from None
    except OSError as exc:
        raise ConfigError(f"A certificate of the cluster cannot be read: {exc.strerror}.") from None
