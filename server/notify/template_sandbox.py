"""The ground that templates run on: data and `loop` only, our filters only, and a meter for what they use.

Templates come from apps, so they are not trusted. template_source.py leaves most of Jinja2 out: no macros,
imports, calls but range(), no lists but of constants. Here what is left is bounded: a loop is paid for
before it runs, by its length times the size of its body, and each string that an expression makes by its
length, and what compares, searches or writes lists by their sizes. All texts of one rendering pay from one
purse. So it ends within milliseconds, whatever it says. Jinja2's own sandbox stands behind all this as a
second fence.
"""

from collections.abc import Mapping, Sequence
from datetime import tzinfo
from functools import partial
from typing import Any, Final, cast

from babel import Locale
from jinja2 import UndefinedError, pass_context
from jinja2.runtime import Context, LoopContext, StrictUndefined, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import missing

MAX_STEPS: Final = 25_000  # of one rendering: nodes evaluated; about 5 ms
MAX_RANGE: Final = 1_000
MAX_VALUE_CHARS: Final = 8_192  # of one string made by an expression; a request's data are at most 2 KiB
MAX_MADE_CHARS: Final = 256 * 1024  # of all strings made in one rendering
MAX_NUMBER: Final = 2**53 - 1  # JavaScript's largest exact integer, as in protocol.limits

LOOP: Final = "!loop"  # filters that only template_source.py puts in: their names cannot be written
SLICE: Final = "!slice"
CONCAT: Final = "!concat"
RANGE: Final = "!range"
COMPARED: Final = "!compared"
_LOOP_FIELDS: Final = frozenset({"index", "index0", "revindex", "revindex0", "first", "last", "length"})
_CHARS_A_STEP: Final = 100  # that are searched
_TESTS: Final = [
    "defined",
    "undefined",
    "none",
    "string",
    "number",
    "integer",
    "float",
    "boolean",
    "mapping",
    "even",
    "odd",
    "divisibleby",
    "eq",
    "equalto",
    "ne",
    "lt",
    "lessthan",
    "le",
    "gt",
    "greaterthan",
    "ge",
]


class UnknownVariable(UndefinedError):
    """The data have no such variable or field."""

    def __init__(self, name: str | None, message: str | None = None) -> None:
        super().__init__(message)
        self.variable = name or ""


class TooMuch(Exception):
    """The rendering would take more steps or make more text than a template may."""


class Purse:
    """What one rendering may still use, for all its texts together."""

    __slots__ = ("chars", "steps")

    def __init__(self) -> None:
        self.steps = MAX_STEPS
        self.chars = MAX_MADE_CHARS


class RenderContext(Context):
    """One text of a rendering: its data, its user's conventions and time zone, and the purse it pays from."""

    def __init__(
        self,
        environment: "TemplateEnvironment",
        data: dict[str, Any],
        locale: Locale,
        time_zone: tzinfo,
        purse: Purse,
    ) -> None:
        super().__init__(environment, data, None, {})
        self.locale = locale
        self.time_zone = time_zone
        self._purse = purse

    def step(self, count: int) -> None:
        """Pay for work. Raises: TooMuch."""
        self._purse.steps -= count
        if self._purse.steps < 0:
            raise TooMuch(f"it takes more than {MAX_STEPS:,} steps")

    def make(self, chars: int) -> None:
        """Pay for a string, before it is made where it can be long. Raises: TooMuch."""
        self._purse.chars -= chars
        if chars > MAX_VALUE_CHARS:
            raise TooMuch(f"an expression makes more than {MAX_VALUE_CHARS:,} characters")
        if self._purse.chars < 0:
            raise TooMuch(f"its expressions make more than {MAX_MADE_CHARS:,} characters")


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Jinja2 with our filters instead of its own."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self, *, autoescape: bool, filters: Mapping[str, Any]) -> None:
        super().__init__(autoescape=autoescape, undefined=_Unknown, finalize=_printable, cache_size=0)
        self.filters = {**filters, LOOP: _loop, SLICE: _slice, CONCAT: _concat, RANGE: _range}
        self.filters[COMPARED] = _compared
        self.tests = {name: TESTS[name] for name in _TESTS}
        self.globals = {}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A field of data, or one of `loop`. Methods and the like of Python's objects are not there."""
        if isinstance(obj, dict):
            if attribute in obj:
                return obj[attribute]
        elif isinstance(obj, LoopContext) and attribute in _LOOP_FIELDS:
            return getattr(obj, attribute)
        elif isinstance(obj, Undefined):
            str(obj)  # raises, and so names what is missing first
        return self.undefined(obj=obj, name=attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """A field of data, or an element of a list."""
        if isinstance(obj, Undefined):
            str(obj)
        try:
            if isinstance(obj, dict) or (isinstance(obj, list | tuple) and isinstance(argument, int)):
                return obj[argument]
        except (LookupError, TypeError):
            pass
        return self.undefined(obj=obj, name=str(argument))

    def is_safe_callable(self, obj: Any) -> bool:
        """Nothing can be called; range() was put in as a filter."""
        return False

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic, of numbers only: a string or list times a number is how memory is burnt."""
        for operand in (left, right):
            if isinstance(operand, Undefined):
                str(operand)
            if not isinstance(operand, int | float) or isinstance(operand, bool):
                raise TypeError(f"{operator} takes numbers; strings are joined with ~")
        result = super().call_binop(context, operator, left, right)
        if not -MAX_NUMBER <= result <= MAX_NUMBER:  # neither is NaN
            raise ValueError(f"{operator} leaves the numbers of ±2^53")
        return result


class _Unknown(StrictUndefined):
    """Something that is not there. Whatever is done with it, but asking whether it is there, raises."""

    __slots__ = ()

    def __init__(
        self, hint: str | None = None, obj: Any = missing, name: str | None = None, exc: object = None
    ) -> None:
        del exc  # ours knows the name
        super().__init__(hint, obj, name, cast("type[UndefinedError]", partial(UnknownVariable, name)))


def _printable(value: Any) -> Any:
    """What is put into the text. A list is refused: printed, it would look like Python, and may be long."""
    if value.__class__ is str:
        return value
    if value is None:
        return ""
    if isinstance(value, str | int | float | Undefined):
        return value
    raise TypeError("a list or object cannot be printed: use its fields, a loop, or the filter list or join")


@pass_context
def _range(context: RenderContext, args: list[Any]) -> range:
    for argument in args:
        if isinstance(argument, Undefined):
            str(argument)
    numbers = range(*args)
    if len(numbers) > MAX_RANGE:
        raise TooMuch(f"range() of more than {MAX_RANGE:,}")
    return numbers


@pass_context
def _loop(context: RenderContext, items: Any, body_steps: int) -> Sequence[Any]:
    """Pay for a loop over `items` whose body takes so many steps."""
    if isinstance(items, Undefined):
        str(items)
    if not isinstance(items, list | tuple | dict | range):
        raise TypeError(f"a loop takes a list, not a {type(items).__name__}")
    context.step(len(items) * body_steps)
    return items if isinstance(items, list | tuple | range) else list(items)


@pass_context
def _slice(context: RenderContext, value: Any, start: Any, stop: Any, step: Any) -> Any:
    if isinstance(value, Undefined):
        str(value)
    if not isinstance(value, list | tuple | str):
        raise TypeError("only a list or a text can be sliced")
    context.make(len(value))
    return value[start:stop:step]


@pass_context
def _concat(context: RenderContext, parts: list[Any]) -> str:
    texts = [str(_printable(part)) for part in parts]
    context.make(sum(map(len, texts)))
    return "".join(texts)


@pass_context
def _compared(context: RenderContext, value: Any) -> Any:
    """Pay for a value that is compared or searched: as a whole, each time."""
    if isinstance(value, str):
        if len(value) > _CHARS_A_STEP:
            context.step(len(value) // _CHARS_A_STEP)
    elif isinstance(value, list | tuple | dict | range):
        context.step(_size(value))
    return value


def _size(value: Any) -> int:
    """How many values there are in a value."""
    if isinstance(value, dict):
        return 1 + sum(map(_size, value.values()))
    if isinstance(value, list | tuple):
        return 1 + sum(map(_size, value))
    if isinstance(value, range):
        return len(value)
    return 1 + len(value) // _CHARS_A_STEP if isinstance(value, str) else 1
