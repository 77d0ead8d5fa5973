"""Seal what apps entrust to us: their credentials at providers are stored encrypted, under secret.key.

AES-256-GCM with a random nonce; the app and the provider are bound in, so that a row copied to another app
opens nothing. A stolen database alone gives no credential away; whoever has secret.key too can open all.
"""

import base64
import os
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.errors import StorageUnavailable
from protocol.provider_configs import ProviderConfig

_NONCE_BYTES: Final = 12  # NIST SP 800-38D section 8.2.2: random ones are good for 2^32 seals under one key
_config: Final[msgspec.json.Decoder[ProviderConfig]] = msgspec.json.Decoder(ProviderConfig)


def derived_key(server_secret: bytes, purpose: str, *, size: int = 32) -> bytes:
    """Derive a key for one purpose from the server's secret (HKDF, RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=size, salt=None, info=b"hubbub " + purpose.encode()).derive(
        server_secret
    )


class Vault:
    """Seal and open provider settings."""

    def __init__(self, server_secret: bytes) -> None:
        self._cipher = AESGCM(derived_key(server_secret, "provider settings"))

    def seal(self, app_id: str, provider_id: str, config: ProviderConfig) -> str:
        """Encrypt settings for storing."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, msgspec.json.encode(config), _bound(app_id, provider_id))
        return base64.b64encode(nonce + sealed).decode()

    def open(self, app_id: str, provider_id: str, sealed: str) -> ProviderConfig:
        """Decrypt settings. Raises: StorageUnavailable, where secret.key is not the one of then."""
        raw = base64.b64decode(sealed)
        try:
            plain = self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _bound(app_id, provider_id))
        except InvalidTag:
            raise StorageUnavailable(
                f"The settings of provider {provider_id} cannot be opened: secret.key has changed."
            ) from None
        return _config.decode(plain)


def _bound(app_id: str, provider_id: str) -> bytes:
    return f"{app_id}\0{provider_id}".encode()
