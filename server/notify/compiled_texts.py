"""Texts of templates, compiled: which of them a user gets on each channel, ready to be written.

To compile one takes up to 50 ms, in which nobody else would be served. So it is done in a thread, and what
needs it waits. All that users of one locale may get of a template becomes ready at once, whatever channel or
variant it will be; locales that get the same texts share them.
"""

from typing import Final

import msgspec
import trio

from protocol.errors import HubbubError, Refused
from protocol.notify_templates import DEFAULT_VARIANT, ChannelText, Template
from protocol.notify_types import CHANNELS
from server.notify.template_locales import Choice, choose_text
from server.notify.template_source import Source

MAX_COMPILED: Final = 4_000  # texts, at some 10 KB each
MAX_PLACES: Final = 20_000  # small ones, by whatever locales users' devices tell
MAX_THREADS: Final = 2  # more would only share Python's one lock
EASY_VARIANTS: Final = 4  # of a template that is looked through at once: 0.1 ms

Place = tuple[str, str, int, str, str]
"""Whose template, its name and version; the user's locale, and the app's default one."""
_Key = tuple[str, str, int, str, str, str]  # whose, name, version; variant, locale and channel of the text


class CompiledText:
    """The sources of one text, compiled; None where there is none."""

    __slots__ = ("body", "html", "image", "places", "title", "url")

    def __init__(self, text: ChannelText, where: str) -> None:
        """Raises: ProtocolError(bad_field): see Source."""
        self.title = _compiled(text.title, f"{where}.title")
        self.body = _compiled(text.body, f"{where}.body")
        self.html = _compiled(text.html, f"{where}.html", is_html=True)
        self.url = _compiled(text.url, f"{where}.url")
        self.image = _compiled(text.image, f"{where}.image")
        self.places: set[Place] = set()  # where it is among the texts

    @property
    def names(self) -> frozenset[str]:
        """The variables that it uses."""
        sources = (self.title, self.body, self.html, self.url, self.image)
        return frozenset().union(*(source.names for source in sources if source is not None))


class _Broken(msgspec.Struct, frozen=True):
    """A text that was let in, and cannot be compiled now."""

    message: str


class _Texts:
    """What users of one locale may get of a template, by variant and channel. `is_whole`: all of it."""

    __slots__ = ("found", "is_whole")

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], tuple[Choice, CompiledText]] = {}
        self.is_whole = False


class CompiledTexts:
    """Keep compiled texts, the newest; what came first gives way, as old versions of templates do."""

    def __init__(self) -> None:
        self._texts: dict[Place, _Texts] = {}
        self._compiled: dict[_Key, CompiledText | _Broken] = {}
        self._limiter = trio.CapacityLimiter(MAX_THREADS)
        self._turns: dict[str, trio.Lock] = {}  # by app: one of its texts at a time, and each once

    def is_ready(self, template: Template, place: Place) -> bool:
        """Tell whether each text can be had without compiling."""
        texts = self._texts.get(place)
        if texts is not None and texts.is_whole:
            return True
        if len(template.texts) > EASY_VARIANTS:
            return False
        for variant in template.texts:
            for channel in CHANNELS:
                choice = _choose(template, place, variant, channel)
                if choice is not None and not self._take(place, variant, channel, choice):
                    return False
        self._is_whole(place)
        return True

    async def prepare(self, template: Template, place: Place) -> None:
        """Compile what is not, beside the loop. An app whose texts take long waits for itself alone."""
        owner = place[0]
        turn = self._turns.setdefault(owner, trio.Lock())
        try:
            async with turn:
                if self.is_ready(template, place):
                    return
                for variant in template.texts:
                    for channel in CHANNELS:
                        await self._prepare_one(template, place, variant, channel)
                    await trio.lowlevel.checkpoint()
                self._is_whole(place)
        finally:
            if not turn.locked() and self._turns.get(owner) is turn:
                del self._turns[owner]

    async def _prepare_one(self, template: Template, place: Place, variant: str, channel: str) -> None:
        choice = _choose(template, place, variant, channel)
        if choice is None or self._take(place, variant, channel, choice):
            return
        compiled = await trio.to_thread.run_sync(_compile, choice, limiter=self._limiter)
        self._keep(_key(place, choice), compiled)
        self._take(place, variant, channel, choice)

    def get(
        self, template: Template, place: Place, variant: str, channel: str
    ) -> tuple[Choice, CompiledText]:
        """The text for a variant on a channel; it is compiled here, where nobody has prepared it.

        Raises: Refused(template_failed): there is none, or it cannot be compiled.
        """
        if variant not in template.texts:
            variant = DEFAULT_VARIANT
        texts = self._texts.get(place)
        found = texts.found.get((variant, channel)) if texts is not None else None
        return found or self._get_now(template, place, variant, channel)

    def _get_now(
        self, template: Template, place: Place, variant: str, channel: str
    ) -> tuple[Choice, CompiledText]:
        choice = _choose(template, place, variant, channel)
        if choice is None:
            raise no_text(template, channel)
        key = _key(place, choice)
        if key not in self._compiled:
            self._keep(key, _compile(choice))
        compiled = self._compiled[key]
        if isinstance(compiled, _Broken):
            raise Refused("template_failed", compiled.message)
        self._take(place, variant, channel, choice)
        return choice, compiled

    def _take(self, place: Place, variant: str, channel: str, choice: Choice) -> bool:
        """Put a text among those of its place; False: it is not compiled."""
        compiled = self._compiled.get(_key(place, choice))
        if isinstance(compiled, CompiledText):
            self._at(place).found[variant, channel] = (choice, compiled)
            compiled.places.add(place)
        return compiled is not None

    def _is_whole(self, place: Place) -> None:
        self._at(place).is_whole = True

    def _at(self, place: Place) -> _Texts:
        texts = self._texts.get(place)
        if texts is None:
            if len(self._texts) >= MAX_PLACES:
                self._drop(next(iter(self._texts)))
            texts = self._texts[place] = _Texts()
        return texts

    def _drop(self, place: Place) -> None:
        for _, compiled in self._texts.pop(place).found.values():
            compiled.places.discard(place)

    def _keep(self, key: _Key, compiled: CompiledText | _Broken) -> None:
        if len(self._compiled) >= MAX_COMPILED:
            oldest = self._compiled.pop(next(iter(self._compiled)))
            if isinstance(oldest, CompiledText):
                for place in list(oldest.places):
                    self._drop(place)
        self._compiled[key] = compiled


def no_text(template: Template, channel: str) -> Refused:
    """What is said where a template has nothing to show on a channel."""
    return Refused("template_failed", f"Template {template.name!r} has no text for {channel}.")


def where_of(choice: Choice) -> str:
    """The place of a text in its template, for messages."""
    return f"texts.{choice.variant}.{choice.locale}.{choice.channel}"


def _choose(template: Template, place: Place, variant: str, channel: str) -> Choice | None:
    return choose_text(template, variant=variant, channel=channel, wanted=place[3], app_default=place[4])


def _key(place: Place, choice: Choice) -> _Key:
    return (*place[:3], choice.variant, choice.locale, choice.channel)


def _compile(choice: Choice) -> CompiledText | _Broken:
    """Runs in a thread too."""
    try:
        return CompiledText(choice.text, where_of(choice))
    except HubbubError as error:  # it was let in by an older release
        return _Broken(error.message)


def _compiled(source: str, where: str, *, is_html: bool = False) -> Source | None:
    return Source(source, where=where, is_html=is_html) if source else None
