"""What a request or a type says that would mean nothing, or not what it seems to: refused, not skipped. Pure.

A field that is taken and then ignored is a promise that is not kept: who wrote it relies on it.
"""

from collections.abc import Sequence

from protocol.errors import ProtocolError
from protocol.notify_content import NotifyRequest
from protocol.notify_templates import Experiment, Template
from protocol.notify_types import Channel, TypeRule
from server.notify.templates import AMBIENT


def check_meaning(request: NotifyRequest, template: Template | None, experiment: Experiment | None) -> None:
    """Refuse what would have no effect. `template`, `experiment`: the app's own ones that the request names.

    Raises: ProtocolError(bad_field).
    """
    check_once("channels", request.channels)
    if not request.cron:
        if request.time_zone:
            raise _bad(
                "time_zone is of cron. A send_at without an offset is in each user's own time zone;"
                " for one moment for all give it an offset."
            )
        if request.ends_at_ms:
            raise _bad("ends_at_ms is of cron; expires_at_ms ends what comes once.")
    if not request.template:
        if request.experiment:
            raise _bad("An experiment is about the variants of a template: name the template, too.")
        return
    taken = sorted(name for name in request.data if name in AMBIENT)
    if taken:
        raise _bad(f"data: {taken[0]!r} is set by hubbub for every notification; give yours another name.")
    if template is not None and template.type is not None and template.type != request.type:
        raise _bad(f"Template {template.name!r} is for the type {template.type!r} alone.")
    if experiment is not None and experiment.template != request.template:
        raise _bad(f"Experiment {experiment.name!r} is about the template {experiment.template!r}.")


def check_type(rule: TypeRule) -> None:
    """Refuse a type that goes nowhere, or twice to one place. Raises: ProtocolError(bad_field)."""
    if not rule.channels:
        raise _bad("channels: name one at least; a type is turned off by its users, or removed.")
    check_once("channels", rule.channels)
    check_once("fallback", rule.fallback)


def check_once(field: str, channels: Sequence[Channel]) -> None:
    """Raises: ProtocolError(bad_field), where a channel is named twice: it would reach each device twice."""
    if len(set(channels)) < len(channels):
        twice = next(channel for channel in channels if channels.count(channel) > 1)
        raise _bad(f"{field}: {twice!r} is named twice.")


def _bad(message: str) -> ProtocolError:
    return ProtocolError("bad_field", message)
