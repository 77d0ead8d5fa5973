"""What one app has set up, as one version of it."""

from collections.abc import Callable, Mapping

from actors.notify.builtin_types import BUILTIN_TYPES
from actors.notify.experiments import assign
from actors.notify.ports import Account
from protocol.notify_templates import Experiment, Template
from protocol.notify_types import AppRules, Channel, TypeRule


class AppSetup:
    """One version of what an app has set up. Fits actors.notify.ports.Setup."""

    def __init__(
        self,
        app_id: str,
        version: int,
        *,
        rules: AppRules,
        types: Mapping[str, TypeRule],
        templates: Mapping[str, Template],
        experiments: Mapping[str, Experiment],
        chains: Mapping[str, list[Account]],
        vapid_public_key: str,
        now_ms: Callable[[], int],
        paused: frozenset[str] = frozenset(),
        retirement: Mapping[str, int] | None = None,
        template_bytes: int = 0,
    ) -> None:
        self.app_id = app_id
        self.version = version
        self.rules = rules
        self.own_types = types
        self.types = {**BUILTIN_TYPES, **types}
        self.templates = templates
        self.experiments = experiments
        self.chains = chains
        self.paused = paused  # channels with an account that is paused
        self.retirement = retirement or {}  # channel -> until when all that is dead may be retired, Unix ms
        self.vapid_public_key = vapid_public_key
        self.template_bytes = template_bytes  # about, as JSON
        self._now_ms = now_ms

    def type_rule(self, name: str) -> TypeRule | None:
        return self.types.get(name)

    def all_types(self) -> list[TypeRule]:
        return list(self.types.values())

    def has_provider(self, channel: Channel) -> bool:
        # With its only account paused a channel is still there: what goes by it waits.
        return bool(self.chains.get(channel)) or channel in self.paused

    def variant_of(self, experiment: str, user_id: str) -> str | None:
        found = self.experiments.get(experiment)
        if found is None:
            return None
        now_ms = self._now_ms()
        if now_ms < found.started_at_ms or 0 < found.ended_at_ms <= now_ms:
            return None
        return assign(found, user_id)
