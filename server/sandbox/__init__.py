"""Faithful fakes of the providers, with fault injection: `hubbub sandbox`, and our own tests.

It owns the other end of APNs, FCM, Web Push, SMS and SMTP as far as a test needs it. It knows the providers'
settings (`protocol.provider_configs`) and nothing else of a node: not how notifications are decided or sent.
"""

from server.sandbox.faults import Fault
from server.sandbox.keyring import Addresses, Configs, Keyring, make_keyring
from server.sandbox.ledger import Delivery
from server.sandbox.sandbox import Sandbox, SandboxOptions, open_sandbox
from server.sandbox.webpush import Subscription

__all__ = [
    "open_sandbox",
    "Sandbox",
    "SandboxOptions",
    "Fault",
    "Delivery",
    "Subscription",
    "Addresses",
    "Configs",
    "Keyring",
    "make_keyring",
]
