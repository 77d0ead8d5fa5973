"""What apps have set up for their notifications, in the memory of this node.

Read when an app is first asked for, and again within REFRESH_S after a change on any node. What is here is
handed out without waiting, as it is asked for with every notification. Each app is read by itself: one whose
rows are too large, or cannot be read, costs itself alone (setup_failures.py).
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, TypeVar, cast

import msgspec
import structlog
import trio

from actors.notify.ports import Account
from actors.notify.stored_setup import read_type
from protocol.errors import HubbubError, Unavailable
from protocol.notify_records import (
    ExperimentRow,
    NotifyAppRow,
    NotifyTypeRow,
    ProviderRow,
    RetirementRow,
    TemplateRow,
)
from protocol.notify_templates import Experiment, Template
from protocol.notify_types import AppRules, Channel
from protocol.provider_configs import ProviderConfig, WebPushConfig
from server.notify.app_setup import AppSetup
from server.notify.provider_registry import InUse, ProviderRegistry, credential_of
from server.notify.setup_failures import UNREADABLE, SetupFailures
from server.notify.vault import Vault
from server.providers.vapid import Vapid
from storage.store import Store

REFRESH_S: Final = 3.0  # how long a change may take to the other nodes, unless something needs it before
READ_CHARS: Final = 256 * 1024  # of templates at a time: a millisecond
COUNT_EVERY: Final = 20  # refreshes between two counts of addresses
OWN_PROVIDER: Final = "own"  # web push by the server's own key pair, where an app has none

log = structlog.get_logger(__name__)
T = TypeVar("T")
_rules = msgspec.json.Decoder(AppRules).decode
_type = read_type
_template = msgspec.json.Decoder(Template).decode
_experiment = msgspec.json.Decoder(Experiment).decode


class SetupCache:
    """All apps' setups. Fits actors.notify.ports.Setups and Accounts, and server.notify.templates' reads."""

    def __init__(
        self,
        store: Store,
        vault: Vault,
        own_push: WebPushConfig,
        *,
        now_ms: Callable[[], int],
        alert: Callable[[str, str, dict[str, str]], None],
    ) -> None:
        self._store = store
        self._vault = vault
        self._own_push = own_push
        self._now_ms = now_ms
        self._alert = alert
        self._setups: dict[str, AppSetup] = {}
        self._providers: dict[tuple[str, str], tuple[int, InUse]] = {}  # by app and id: when changed
        self._registry: ProviderRegistry | None = None
        self._reading: dict[str, trio.Lock] = {}  # by app: of several who need the same version, one reads it
        self._failures = SetupFailures()
        self._alive: dict[tuple[str, str], int] = {}
        self.on_credential_changed: Callable[[str], None] = lambda _credential: None

    # -- actors.notify.ports --------------------------------------------------------------------------

    def known(self, app_id: str) -> AppSetup | None:
        """The app's setup, if it is in memory."""
        return self._setups.get(app_id)

    async def load(self, app_id: str) -> AppSetup:
        """The app's setup, read where it is not in memory. Raises: HubbubError."""
        return self._setups.get(app_id) or await self.at_least(app_id, 0)

    async def at_least(self, app_id: str, version: int) -> AppSetup:
        """The app's setup, read where what is in memory is older than that. Raises: HubbubError."""
        async with self._lock_of(app_id):
            known = self._setups.get(app_id)
            if known is not None and known.version >= version:
                return known
            error = self.failure(app_id)
            if error is not None:
                raise error
            return await self._read(app_id)

    async def newest(self, app_id: str) -> AppSetup:
        """The app's setup as it is now, on whatever node it was changed. Raises: HubbubError."""
        row = await self._store.get(NotifyAppRow, app_id)
        return await self.at_least(app_id, row.version if row is not None else 0)

    def failure(self, app_id: str) -> HubbubError | None:
        """Why the app's setup could not be read just now; None: it may be tried."""
        error = self._failures.error_of(app_id, trio.current_time())
        return (
            Unavailable(error.code, error.message, retry_after_s=error.retry_after_s or 1.0)
            if error
            else None
        )

    def put_off(self) -> list[str]:
        """The apps of which no setup is known, as it could not be read when it was asked for."""
        return [app_id for app_id in self._failures.apps() if app_id not in self._setups]

    def unreadable(self) -> list[str]:
        """The apps whose own rows cannot be read, for the operator."""
        return self._failures.unreadable()

    def in_memory(self, app_id: str) -> list[AppSetup]:
        """The app's setup, if it is in memory; "": all that are."""
        if not app_id:
            return list(self._setups.values())
        known = self._setups.get(app_id)
        return [] if known is None else [known]

    def chain(self, app_id: str, channel: Channel) -> list[Account]:
        """An app's accounts of a channel, in order."""
        setup = self._setups.get(app_id)
        return [] if setup is None else setup.chains.get(channel, [])

    def alive_count(self, app_id: str, channel: Channel) -> int:
        """About how many addresses of that channel the app's users have: as of a minute ago."""
        return self._alive.get((app_id, channel), 0)

    def retirement_until_ms(self, app_id: str, channel: Channel) -> int:
        """Until when a person lets all dead addresses of a channel go; 0: nobody does."""
        setup = self._setups.get(app_id)
        return 0 if setup is None else setup.retirement.get(channel, 0)

    def alert(self, app_id: str, kind: str, detail: dict[str, str]) -> None:
        """Tell the app's developers."""
        self._alert(app_id, kind, detail)

    # -- server.notify.templates ----------------------------------------------------------------------

    def template(self, app_id: str, name: str) -> Template | None:
        """An app's own template."""
        setup = self._setups.get(app_id)
        return None if setup is None else setup.templates.get(name)

    def default_locale(self, app_id: str) -> str:
        """The app's default locale."""
        setup = self._setups.get(app_id)
        return AppRules().default_locale if setup is None else setup.rules.default_locale

    # -- reading --------------------------------------------------------------------------------------

    async def reload(self, app_id: str) -> AppSetup:
        """Read what an app has set up. Raises: HubbubError, and what was known stays."""
        async with self._lock_of(app_id):
            return await self._read(app_id)

    def _lock_of(self, app_id: str) -> trio.Lock:
        return self._reading.setdefault(app_id, trio.Lock())

    async def _read(self, app_id: str) -> AppSetup:
        try:
            setup = await self._read_rows(app_id)
        except Exception as exc:  # whatever one app's rows bring about is not the end of the others
            raise await self._failed(app_id, exc) from exc
        self._failures.mended(app_id)
        self._setups[app_id] = setup
        return setup

    async def _read_rows(self, app_id: str) -> AppSetup:
        store = self._store
        row = await store.get(NotifyAppRow, app_id)
        where: dict[str, str | int | None] = {"app_id": app_id}
        types = _readable(app_id, _type, await store.find(NotifyTypeRow, where, limit=1000))
        template_rows = await store.notify.newest_templates(app_id)
        templates = await self._templates(app_id, template_rows)
        experiments = _readable(app_id, _experiment, await store.find(ExperimentRow, where, limit=1000))
        providers = await store.find(ProviderRow, where, order_by="position", limit=1000)
        allowed = await store.find(RetirementRow, where, limit=100)
        chains, vapid = self._chains(app_id, providers)
        return AppSetup(
            app_id,
            row.version if row is not None else 0,
            rules=_rules_of(row),
            types=types,
            templates=templates,
            experiments=experiments,
            chains=chains,
            vapid_public_key=vapid,
            now_ms=self._now_ms,
            paused=frozenset(found.channel for found in providers if found.is_paused),
            retirement={found.channel: found.until_ms for found in allowed},
            template_bytes=sum(len(found.body) for found in template_rows),
        )

    async def _failed(self, app_id: str, exc: Exception) -> HubbubError:
        """Remember that a setup could not be read, and log why. Returns what its callers are told."""
        error: HubbubError = Unavailable(UNREADABLE, retry_after_s=5.0)
        if isinstance(exc, HubbubError):
            try:
                await self._store.get(NotifyAppRow, "")  # it answers: so it is this app
            except HubbubError:
                error = exc  # the store's own, which says what to do
        failure = self._failures.failed(app_id, error, trio.current_time())
        log.error(
            "setup_not_read",
            app_id=app_id,
            code=error.code,
            attempt=failure.count,
            error=str(exc) or type(exc).__name__,
            exc_info=None if isinstance(exc, HubbubError) else exc,
        )
        return error

    async def _templates(self, app_id: str, rows: list[TemplateRow]) -> dict[str, Template]:
        """Read what has changed. Others have a turn in between: there may be megabytes."""
        known = self._setups.get(app_id)
        found: dict[str, Template] = {}
        size = 0
        for row in rows:
            if not row.body:  # it was removed
                continue
            same = known.templates.get(row.name) if known is not None else None
            if same is not None and same.version == row.version:
                found[row.name] = same
                continue
            found.update(_readable(app_id, _template, [row]))
            size += len(row.body)
            if size > READ_CHARS:
                size = 0
                await trio.lowlevel.checkpoint()
        return found

    def _chains(self, app_id: str, rows: list[ProviderRow]) -> tuple[dict[str, list[Account]], str]:
        """Make the app's accounts, and keep those that have not changed."""
        chains: dict[str, list[Account]] = {}
        vapid = ""
        kept: set[tuple[str, str]] = set()
        for row in rows:
            if row.is_paused:
                continue
            try:
                config = self._vault.open(app_id, row.provider_id, row.sealed)
                provider = self._provider(app_id, row.provider_id, row.changed_at_ms, config)
            except HubbubError as error:
                log.error(  # noqa: TRY400 - the code tells all
                    "provider_unusable", app_id=app_id, provider_id=row.provider_id, code=error.code
                )
                continue
            if provider is None:
                continue
            kept.add((app_id, row.provider_id))
            if isinstance(config, WebPushConfig) and not vapid:
                vapid = Vapid(config.private_key, config.subject).public_key
            chains.setdefault(row.channel, []).append(
                Account(row.provider_id, credential_of(app_id, config), config.rate_per_s, provider)
            )
        if "webpush" not in chains:
            provider = self._provider(app_id, OWN_PROVIDER, 0, self._own_push)
            if provider is not None:
                kept.add((app_id, OWN_PROVIDER))
                vapid = Vapid(self._own_push.private_key, self._own_push.subject).public_key
                chains["webpush"] = [Account(OWN_PROVIDER, credential_of("", self._own_push), 0.0, provider)]
        for key in [key for key in self._providers if key[0] == app_id and key not in kept]:
            self._drop(key)
        return chains, vapid

    def _provider(
        self, app_id: str, provider_id: str, changed_at_ms: int, config: ProviderConfig
    ) -> InUse | None:
        if self._registry is None:
            return None
        key = (app_id, provider_id)
        known = self._providers.get(key)
        if known is not None:
            if known[0] == changed_at_ms:
                return known[1]
            self._drop(key)
        made = self._registry.make(app_id, provider_id, config)
        self._providers[key] = (changed_at_ms, made)
        self.on_credential_changed(credential_of(app_id, config))
        return made

    def try_out(self, app_id: str, provider_id: str, config: ProviderConfig) -> None:
        """See whether settings can be used. Raises: ProtocolError(bad_field)."""
        if self._registry is not None:
            self._registry.close_soon(self._registry.make(app_id, provider_id, config))

    def _drop(self, key: tuple[str, str]) -> None:
        _, provider = self._providers.pop(key)
        if self._registry is not None:
            self._registry.close_soon(provider)

    # -- life -----------------------------------------------------------------------------------------

    async def run(
        self,
        registry: ProviderRegistry,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Refresh what has changed, until cancelled; providers are there meanwhile."""
        self._registry = registry
        try:
            for app_id in list(self._setups):  # read before there were providers
                await self._reload_quietly(app_id)
            task_status.started()
            number = 0
            while True:
                await self._refresh(count=number % COUNT_EVERY == 0)
                number += 1
                await trio.sleep(REFRESH_S)
        finally:
            self._registry = None
            self._providers.clear()
            for setup in self._setups.values():
                cast(dict[str, list[Account]], setup.chains).clear()

    async def _refresh(self, *, count: bool) -> None:
        try:
            versions = await self._store.notify.app_versions()
            if count:
                self._alive = await self._store.notify.device_counts()
        except HubbubError as error:
            log.warning("setups_not_refreshed", code=error.code)
            return
        failed = self._failures.apps()
        changed = [
            app_id
            for app_id, setup in self._setups.items()
            if versions.get(app_id, 0) != setup.version and app_id not in failed
        ]
        for app_id in (*changed, *self._failures.due(trio.current_time())[:1]):  # one: it may take seconds
            await self._reload_quietly(app_id)

    async def _reload_quietly(self, app_id: str) -> None:
        with suppress(HubbubError):  # it was logged, and what was known stays
            await self.reload(app_id)


def _readable(
    app_id: str, decode: Callable[[str], T], rows: Iterable[NotifyTypeRow | TemplateRow | ExperimentRow]
) -> dict[str, T]:
    """What the rows hold, by name, without those that were written when more was let in than is now."""
    found: dict[str, T] = {}
    for row in rows:
        try:
            found[row.name] = decode(row.body)
        except (msgspec.MsgspecError, RecursionError):
            log.error("setup_row_unreadable", app_id=app_id, table=row.table, name=row.name)  # noqa: TRY400
    return found


def _rules_of(row: NotifyAppRow | None) -> AppRules:
    """An app's rules; the defaults where it has set none, or what it has set cannot be read any more."""
    if row is None or not row.rules:
        return AppRules()
    try:
        return _rules(row.rules)
    except (msgspec.MsgspecError, RecursionError):
        log.error("setup_row_unreadable", app_id=row.app_id, table=row.table)  # noqa: TRY400
        return AppRules()
