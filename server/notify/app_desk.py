"""What an app's developers set up: rules, types, providers, templates, experiments, groups.

Each change is one transaction with the app's version, by which all nodes notice it: this one at once, others
within setups.REFRESH_S.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec
import structlog

from actors.notify.experiments import check_experiment
from actors.notify.mass_retirement import ALLOWED_MS
from protocol.errors import Conflict, ProtocolError, Refused
from protocol.notify_records import (
    ExperimentRow,
    NotifyAppRow,
    NotifyGroupRow,
    NotifyTypeRow,
    ProviderRow,
    RetirementRow,
    TemplateRow,
)
from protocol.notify_templates import Experiment, ExperimentResults, Template, VariantCounts
from protocol.notify_types import AppRules, Channel, TypeRule
from protocol.provider_configs import ProviderConfig
from protocol.records import Insert, Op, Put, Remove, Update, User
from server import auth
from server.notify.app_setup import AppSetup
from server.notify.experiment_stats import results
from server.notify.provider_registry import CHANNEL_OF
from server.notify.request_check import check_type
from server.notify.setups import OWN_PROVIDER, SetupCache
from server.notify.targets import check_provider, check_rules
from server.notify.template_check import TemplateChecks, check_template
from server.notify.vault import Vault
from server.providers.reach import Reach
from storage.store import Store

MAX_TYPES: Final = 200
MAX_PROVIDERS: Final = 50
MAX_TEMPLATES: Final = 2_000
MAX_TEMPLATE_BYTES: Final = 16 * 2**20  # of all templates of an app, as JSON: each node has them in memory
KEPT_VERSIONS: Final = 10  # of a template; what is held is written by the newest
MAX_FORGOTTEN: Final = 1_000  # older versions that go with one change
FIND_CHUNK: Final = 1_000

log = structlog.get_logger(__name__)
_encode = msgspec.json.Encoder().encode


class AppDesk:
    """Change what apps have set up."""

    def __init__(
        self, store: Store, setups: SetupCache, vault: Vault, *, reach: Reach, now_ms: Callable[[], int]
    ) -> None:
        """`reach`: where apps may have us send."""
        self._store = store
        self._setups = setups
        self._vault = vault
        self._reach = reach
        self._now_ms = now_ms
        self.template_checks = TemplateChecks()

    async def setup(self, app_id: str) -> AppSetup:
        """What the app has set up, as it is stored."""
        return await self._setups.reload(app_id)

    async def put_rules(self, app_id: str, rules: AppRules) -> None:
        """Replace what holds for all of the app's notifications. Raises: ProtocolError(bad_field)."""
        auth.checked_time_zone(rules.default_time_zone)
        auth.checked_language(rules.default_locale)
        check_rules(rules, self._reach)
        await self._change(app_id, [], rules=rules)

    async def put_type(self, app_id: str, rule: TypeRule) -> None:
        """Make or replace a type. Raises: ProtocolError(bad_field)."""
        check_type(rule)
        setup = await self._setups.load(app_id)
        if rule.name not in setup.own_types and len(setup.own_types) >= MAX_TYPES:
            raise Refused("bad_request", f"An app has at most {MAX_TYPES} types of its own.")
        row = NotifyTypeRow(app_id=app_id, name=rule.name, body=_encode(rule).decode())
        await self._change(app_id, [Put(row)])

    async def remove_type(self, app_id: str, name: str) -> None:
        """Remove a type; what is held of it is dropped when its time comes."""
        setup = await self._setups.load(app_id)
        if name not in setup.own_types:
            raise Refused("type_not_found")
        await self._change(app_id, [Remove(NotifyTypeRow, {"app_id": app_id, "name": name})])

    # -- providers ------------------------------------------------------------------------------------

    async def put_provider(
        self,
        app_id: str,
        provider_id: str,
        config: ProviderConfig,
        *,
        position: int = 0,
        is_paused: bool = False,
    ) -> ProviderRow:
        """Make or replace an account at a provider. Raises: ProtocolError(bad_field)."""
        if provider_id == OWN_PROVIDER:
            raise ProtocolError("bad_field", f"{OWN_PROVIDER!r} is the server's own; take another name.")
        rows = await self._providers(app_id)
        if all(row.provider_id != provider_id for row in rows) and len(rows) >= MAX_PROVIDERS:
            raise Refused("bad_request", f"An app has at most {MAX_PROVIDERS} providers.")
        check_provider(config, self._reach)
        self._setups.try_out(app_id, provider_id, config)
        changed_at_ms = max([self._now_ms(), *(row.changed_at_ms + 1 for row in rows)])
        row = ProviderRow(
            app_id=app_id,
            provider_id=provider_id,
            channel=CHANNEL_OF[type(config)],
            kind=str(type(config).__struct_config__.tag),
            position=position,
            is_paused=is_paused,
            sealed=self._vault.seal(app_id, provider_id, config),
            changed_at_ms=changed_at_ms,
        )
        await self._change(app_id, [Put(row)])
        log.info("provider_changed", app_id=app_id, provider_id=provider_id, kind=row.kind)
        return row

    async def remove_provider(self, app_id: str, provider_id: str) -> None:
        """Use an account no more. Raises: Refused(provider_not_found)."""
        if all(row.provider_id != provider_id for row in await self._providers(app_id)):
            raise Refused("provider_not_found")
        where: dict[str, str | int] = {"app_id": app_id, "provider_id": provider_id}
        await self._change(app_id, [Remove(ProviderRow, where)])

    async def pause_provider(self, app_id: str, provider_id: str, *, is_paused: bool) -> ProviderRow:
        """Use an account no more for now, or again. Raises: Refused(provider_not_found)."""
        rows = await self._providers(app_id)
        known = next((row for row in rows if row.provider_id == provider_id), None)
        if known is None:
            raise Refused("provider_not_found")
        if known.is_paused == is_paused:
            return known
        # Its settings are left as they are: they may be replaced at the same time.
        changed_at_ms = max([self._now_ms(), *(row.changed_at_ms + 1 for row in rows)])
        where: dict[str, str | int] = {"app_id": app_id, "provider_id": provider_id}
        changes: dict[str, str | int | None] = {"is_paused": is_paused, "changed_at_ms": changed_at_ms}
        await self._change(app_id, [Update(ProviderRow, where, changes)])
        log.info("provider_paused", app_id=app_id, provider_id=provider_id, is_paused=is_paused)
        return msgspec.structs.replace(known, is_paused=is_paused, changed_at_ms=changed_at_ms)

    async def providers(self, app_id: str) -> list[ProviderRow]:
        """The app's accounts, in the order in which they are tried; settings stay sealed."""
        return await self._providers(app_id)

    async def provider_config(self, app_id: str, provider_id: str) -> ProviderConfig | None:
        """An account's settings, to check what comes in its name."""
        row = await self._store.get(ProviderRow, app_id, provider_id)
        return None if row is None else self._vault.open(app_id, provider_id, row.sealed)

    async def allow_retirement(self, app_id: str, channel: Channel, *, is_allowed: bool) -> None:
        """Let all of a channel's addresses that are called dead be retired for an hour, or no longer."""
        if is_allowed:
            until_ms = self._now_ms() + ALLOWED_MS
            op: Op = Put(RetirementRow(app_id=app_id, channel=channel, until_ms=until_ms))
        else:
            op = Remove(RetirementRow, {"app_id": app_id, "channel": channel})
        await self._change(app_id, [op])
        log.info("mass_retirement_allowed", app_id=app_id, channel=channel, is_allowed=is_allowed)

    async def _providers(self, app_id: str) -> list[ProviderRow]:
        return await self._store.find(ProviderRow, {"app_id": app_id}, order_by="position")

    # -- templates and experiments --------------------------------------------------------------------

    async def put_template(self, app_id: str, template: Template) -> Template:
        """Store a new version of a template. Raises: ProtocolError, Refused, where a text is wrong."""
        setup = await self._setups.load(app_id)
        if template.name not in setup.templates and len(setup.templates) >= MAX_TEMPLATES:
            raise Refused("bad_request", f"An app has at most {MAX_TEMPLATES} templates.")
        known = setup.templates.get(template.name)
        size_bytes = setup.template_bytes + len(_encode(template)) - (len(_encode(known)) if known else 0)
        if size_bytes > MAX_TEMPLATE_BYTES:
            limit = MAX_TEMPLATE_BYTES // 2**20
            raise Refused("bad_request", f"All of an app's templates together have at most {limit} MiB.")
        await self.template_checks.run(partial(check_template, template))
        version = await self._new_version(app_id, template.name, template)
        return msgspec.structs.replace(template, version=version)

    async def remove_template(self, app_id: str, name: str) -> None:
        """Remove a template; a built-in one that it replaced is used again.

        Its last version stays, without a body: versions are never used again, as compiled ones are kept.
        Raises: Refused(template_not_found); Refused(bad_request), while an experiment is about it.
        """
        setup = await self._setups.newest(app_id)
        if name not in setup.templates:
            raise Refused("template_not_found")
        for experiment in setup.experiments.values():
            if experiment.template == name:
                raise Refused(
                    "bad_request", f"The experiment {experiment.name!r} is about it: remove that first."
                )
        await self._new_version(app_id, name, None)

    async def _new_version(self, app_id: str, name: str, template: Template | None) -> int:
        """Store what a template is from now on; None: removed. Returns its version."""
        for _ in range(5):  # each settles one race for a version
            versions = await self._store.notify.template_versions(app_id, name)
            version = versions[-1] + 1 if versions else 1
            body = ""
            if template is not None:
                body = _encode(msgspec.structs.replace(template, version=version)).decode()
            row = TemplateRow(
                app_id=app_id, name=name, version=version, body=body, created_at_ms=self._now_ms()
            )
            old = versions[: 1 - KEPT_VERSIONS][:MAX_FORGOTTEN]
            forget = [
                Remove(TemplateRow, {"app_id": app_id, "name": name, "version": number}) for number in old
            ]
            try:
                await self._change(app_id, [Insert(row), *forget])
            except Conflict:
                continue
            return version
        raise Refused("already_exists", "The template is being changed by several requests at once.")

    async def remove_experiment(self, app_id: str, name: str) -> None:
        """Remove an experiment, and its results; requests that name it are refused from then on.

        What waits with it gets the default variant. Raises: Refused(experiment_not_found).
        """
        if await self._store.get(ExperimentRow, app_id, name) is None:
            raise Refused("experiment_not_found")
        await self._change(app_id, [Remove(ExperimentRow, {"app_id": app_id, "name": name})])

    async def put_experiment(self, app_id: str, experiment: Experiment) -> None:
        """Make or change an experiment. Raises: ProtocolError(bad_field), Refused(template_not_found)."""
        setup = await self._setups.load(app_id)
        template = setup.templates.get(experiment.template)
        if template is None:
            raise Refused("template_not_found")
        check_experiment(experiment, template)
        row = ExperimentRow(
            app_id=app_id,
            name=experiment.name,
            body=_encode(experiment).decode(),
            created_at_ms=self._now_ms(),
        )
        await self._change(app_id, [Put(row)])

    async def experiment_results(self, app_id: str, name: str) -> ExperimentResults:
        """What an experiment has shown. Raises: Refused(experiment_not_found)."""
        setup = await self._setups.load(app_id)
        experiment = setup.experiments.get(name)
        if experiment is None:
            raise Refused("experiment_not_found")
        counts = {
            found.variant: VariantCounts(
                found.exposed,
                getattr(found, experiment.metric),
                found.drawn,
                getattr(found, f"drawn_{experiment.metric}"),
            )
            for found in await self._store.notify.variant_counts(app_id, name)
        }
        return results(experiment, counts)

    # -- groups ---------------------------------------------------------------------------------------

    async def change_group(
        self, app_id: str, name: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> int:
        """Add users to a group and take others out. Returns how many were added that exist."""
        known: list[str] = []
        for start in range(0, len(add), FIND_CHUNK):
            rows = await self._store.find_many(User, "user_id", add[start : start + FIND_CHUNK])
            known += [row.user_id for row in rows if row.app_id == app_id]
        ops: list[Op] = [Put(NotifyGroupRow(app_id=app_id, name=name, user_id=user_id)) for user_id in known]
        ops += [
            Remove(NotifyGroupRow, {"app_id": app_id, "name": name, "user_id": user_id}) for user_id in remove
        ]
        if ops:
            await self._store.commit(ops)
        return len(known)

    # -- plumbing -------------------------------------------------------------------------------------

    async def _change(self, app_id: str, ops: list[Op], *, rules: AppRules | None = None) -> None:
        known = await self._store.get(NotifyAppRow, app_id)
        version = max(self._now_ms(), (known.version if known is not None else 0) + 1)
        written = "" if rules is None else _encode(rules).decode()
        if known is None:
            ops.append(Put(NotifyAppRow(app_id=app_id, version=version, rules=written)))
        else:  # these columns alone: another request may be changing the rules
            values: dict[str, str | int | None] = {"version": version}
            if rules is not None:
                values["rules"] = written
            ops.append(Update(NotifyAppRow, {"app_id": app_id}, values))
        await self._store.commit(ops)
        await self._setups.reload(app_id)
