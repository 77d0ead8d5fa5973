"""Templates of notifications, experiments with them, and what experiments have shown.

A template's texts are Jinja2 sources by variant, locale and channel; docs/TEMPLATES.md tells their syntax.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from protocol.limits import MAX_SAFE_INTEGER
from protocol.notify_types import Decision, TypeName
from protocol.types import AtMs, Count

MAX_SOURCE_BYTES: Final = 64 * 1024  # of one text's source; a mail over 102 KB is clipped by Gmail anyway
MAX_TEMPLATE_BYTES: Final = 512 * 1024  # of all texts of a template, as JSON
MAX_VARIANTS: Final = 10  # with more, each learns too slowly to tell them apart
MAX_LOCALES: Final = 100
MAX_VARIABLES: Final = 50  # as many as a request's data may hold
DEFAULT_VARIANT: Final = "default"
HOLDOUT: Final = "holdout"

_NAME: Final = r"^[a-z][a-z0-9_.-]{0,63}$(?!\n)"
TemplateName = Annotated[str, Meta(pattern=_NAME)]
VariantName = Annotated[
    str,
    Meta(
        pattern=r"^(?!holdout$)[a-z0-9][a-z0-9_-]{0,31}$(?!\n)",
        description='"default" is what everybody gets outside of experiments; "holdout" is not a variant.',
    ),
]
LocaleTag = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8}){0,4}$(?!\n)",
        max_length=35,
        description="BCP 47: en, pt-BR, zh-Hant; an underscore is as good as a hyphen.",
    ),
]
TextChannel = Literal[
    "default", "push", "inapp", "apns", "fcm", "webpush", "sms", "email", "apprise"
]  # `push` is for apns, fcm and webpush; `default` for whatever has no text of its own
VariableName = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$(?!\n)")]
VariableKind = Literal["text", "number", "flag", "time", "list", "object"]
_Source = Annotated[str, Meta(max_length=MAX_SOURCE_BYTES)]
_Line = Annotated[str, Meta(max_length=2_000)]


class _Body(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class ChannelText(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """What a channel shows, each field a Jinja2 source. `html` is of mail, and escapes what it inserts."""

    title: Annotated[_Line, Meta(description="One line; the subject of a mail.")] = ""
    body: Annotated[_Source, Meta(description="Plain text. Empty in a mail: the html's text.")] = ""
    html: _Source = ""
    url: Annotated[_Line, Meta(description="Where a tap leads.")] = ""
    image: _Line = ""


ChannelTexts = Annotated[dict[TextChannel, ChannelText], Meta(min_length=1)]
LocaleTexts = Annotated[dict[LocaleTag, ChannelTexts], Meta(min_length=1, max_length=MAX_LOCALES)]


class Variable(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """A variable of a template. `time` is Unix ms or ISO 8601; `object` has fields: {{ order.number }}."""

    kind: VariableKind = "text"
    required: Annotated[bool, Meta(description="Without it nothing is sent; else `default` is used.")] = True
    # Any JSON: msgspec has no narrower word for it, and check_template holds it to `kind`.
    default: Annotated[Any, Meta(description="Of a variable that is not required; null: by its kind.")] = None
    example: Annotated[Any, Meta(description="For previews and checks; null: made up by its kind.")] = None


class Template(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """What a notification says, in all its variants, languages and channels.

    A text may use the variables declared here and those of every notification: `names`, `others`, `count`,
    `titles`, `reader`, `unsubscribe_url`. `version` rises with every change and is never used again, even
    after a deletion.
    """

    name: TemplateName
    version: Annotated[int, Meta(ge=1, le=MAX_SAFE_INTEGER)] = 1
    type: TypeName | None = None
    default_locale: LocaleTag = "en"
    variables: Annotated[dict[VariableName, Variable], Meta(max_length=MAX_VARIABLES)] = {}
    texts: Annotated[
        dict[VariantName, LocaleTexts],
        Meta(min_length=1, max_length=MAX_VARIANTS, description="By variant, locale and channel."),
    ]


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """A text, ready to be sent. `locale` and `variant` are those of the text that was found."""

    title: str
    body: str
    html: str
    url: str
    image: str
    locale: str
    variant: str
    decision: Decision


class Preview(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """A text with example data. `missing`: variables that neither the data nor an example had a value for."""

    rendered: Rendered
    missing: list[str] = []


Metric = Literal["opened", "clicked", "confirmed"]


class Experiment(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Who gets which variant of a template, and by what it is judged.

    `variants` are weights: {"default": 1, "short": 1} halves the users. Who is in the holdout gets nothing.
    """

    name: TemplateName
    template: TemplateName
    variants: Annotated[
        dict[VariantName, Annotated[int, Meta(ge=0, le=10_000)]], Meta(min_length=2, max_length=MAX_VARIANTS)
    ]
    control: Annotated[VariantName, Meta(description="What the others are compared with.")] = DEFAULT_VARIANT
    holdout_percent: Annotated[float, Meta(ge=0, le=50)] = 0.0
    salt: Annotated[
        str, Meta(max_length=64, description="The same salt gives the same groups; empty: the name.")
    ] = ""
    metric: Metric = "clicked"
    expected_difference: Annotated[
        float,
        Meta(
            gt=0,
            le=0.5,
            description="Of the rates, as a guess made before the start: there the verdict comes soonest."
            " Any guess keeps the error below 5 %. Not to be changed later.",
        ),
    ] = 0.02
    started_at_ms: AtMs = 0
    ended_at_ms: Annotated[AtMs, Meta(description="0: until it is ended.")] = 0


class VariantCounts(msgspec.Struct, frozen=True):
    """Users who were sent the variant's text, and of these who did at least once what the metric counts.

    `drawn`, `drawn_conversions`: the same of all who were drawn for the variant, whatever they were sent.
    """

    exposures: int = 0
    conversions: int = 0
    drawn: int = 0
    drawn_conversions: int = 0


Verdict = Literal["collecting", "undecided", "better", "worse"]
"""`collecting`: too few to say anything. `undecided`: none shown yet, which is not "no difference"."""


class Difference(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """A variant's rate minus the control's.

    `low`, `high`: 95 % interval by Newcombe, for one look at a size chosen before. `always_low` and
    `always_high`: valid at every look, however often; by it the verdict is made.
    """

    estimate: float
    low: float
    high: float
    always_low: float
    always_high: float
    verdict: Verdict


class DrawnDifference(_Body, frozen=True, kw_only=True):
    """A variant's rate minus the control's, of all who were drawn. `low`, `high`: 95 % by Newcombe."""

    estimate: float
    low: float
    high: float


class DrawnResult(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """What became of all who were drawn for a variant, whatever they were sent (intention to treat).

    `low`, `high`: Wilson's 95 % interval of the rate.
    """

    users: Count
    conversions: Count
    rate: float
    low: float
    high: float
    difference: DrawnDifference | None = None


class VariantResult(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """What became of the users who were sent one variant's own text (per protocol).

    Who was drawn for it and was sent another text, as the template has none of it for the channel or
    language, or was sent nothing, is in `drawn` alone. `low`, `high`: Wilson's 95 % interval of the rate.
    """

    variant: str
    exposures: Count
    conversions: Count
    rate: float
    low: float
    high: float
    difference: Difference | None = None
    drawn: DrawnResult | None = None


class SampleRatio(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """Whether variants have as many users as their weights say (chi-square). A mismatch: trust no result."""

    chi_square: float
    degrees: int
    p_value: float
    is_mismatch: bool


class ExperimentResults(_Body, frozen=True, kw_only=True, omit_defaults=True):
    """What an experiment has shown so far. `winner` is empty until it is safe to stop with one."""

    name: str
    metric: Metric
    control: str
    variants: list[VariantResult]
    sample_ratio: SampleRatio
    holdout: VariantResult | None = None
    winner: str = ""
