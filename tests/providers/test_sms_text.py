"""A text is measured as networks do, and cut where a reader would cut it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.providers.sms_text import MAX_CHARS, SmsSize, cut, is_gsm7, sms_size, sms_text

GSM7 = st.text(st.sampled_from("abc XYZ019@£é\n^{}[]~|€"), max_size=700)
ANY = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("ab €😀👍🏽é\u0301\u200d🇩🇪"))
)


def _units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", SmsSize("GSM-7", 0, 0)),
        ("a" * 160, SmsSize("GSM-7", 160, 1)),
        ("a" * 161, SmsSize("GSM-7", 161, 2)),
        ("a" * 306, SmsSize("GSM-7", 306, 2)),
        ("a" * 307, SmsSize("GSM-7", 307, 3)),
        ("€" * 80, SmsSize("GSM-7", 160, 1)),
        ("€" * 153, SmsSize("GSM-7", 306, 3)),  # 76 fit in one of 153, as no pair lies across
        ("ж" * 70, SmsSize("UCS-2", 70, 1)),
        ("ж" * 71, SmsSize("UCS-2", 71, 2)),
        ("ж" * 134, SmsSize("UCS-2", 134, 2)),
        ("😀" * 35, SmsSize("UCS-2", 70, 1)),
        ("😀" * 67, SmsSize("UCS-2", 134, 3)),  # 33 fit in one of 67
        ("a" * 100 + "…", SmsSize("UCS-2", 101, 2)),
        ("Grüße", SmsSize("GSM-7", 5, 1)),
        ("façade", SmsSize("UCS-2", 6, 1)),  # the small one is not in GSM 03.38, only Ç is
    ],
)
def test_segments_are_counted_as_networks_do(text: str, size: SmsSize) -> None:
    """The app pays by the segment (3GPP TS 23.038 and 23.040)."""
    assert sms_size(text) == size


@given(GSM7)
def test_seven_bits_stay_seven_bits_when_cut(text: str) -> None:
    """Cutting must never make a message dearer."""
    assert is_gsm7(cut(text, 100))
    assert sms_size(cut(text, 160)).encoding == "GSM-7"


@given(ANY, st.integers(0, 80))
def test_a_cut_is_short_enough_and_a_beginning(text: str, max_units: int) -> None:
    """Twilio refuses what is too long; readers must not see half a character."""
    short = cut(text, max_units)
    assert _units(short) <= max_units
    short.encode()  # no half of a surrogate pair
    if short != text:
        assert _units(text) > max_units
        kept = short.removesuffix("…").removesuffix("...")
        assert text.startswith(kept) or (
            max_units < 3 and short == "..."[:max_units]
        )  # not even room for dots


@given(ANY)
def test_segments_hold_all_units(text: str) -> None:
    """Neither a unit is lost, nor more than one place a segment left empty."""
    size = sms_size(text)
    single, joined = (160, 153) if size.encoding == "GSM-7" else (70, 67)
    if size.units <= single:
        assert size.segments == (1 if text else 0)
    else:
        assert (size.segments - 1) * (joined - 1) < size.units <= size.segments * joined


@pytest.mark.parametrize(
    ("text", "max_units", "short"),
    [
        ("hello world", 8, "hello..."),
        ("привет, мир", 7, "привет…"),
        ("жe\u0301e\u0301e\u0301", 5, "жe\u0301…"),
        ("ж👍🏽👍🏽", 6, "ж👍🏽…"),  # not without its colour
        ("ж👩\u200d👩\u200d👧x", 8, "ж…"),  # a family stays whole
        ("🇩🇪🇫🇷🇮🇹", 8, "🇩🇪…"),  # a flag is a pair
        ("abc", 3, "abc"),
        ("жжж", 1, "…"),
    ],
)
def test_visible_characters_stay_whole(text: str, max_units: int, short: str) -> None:
    """UAX 29, as far as short messages meet it."""
    assert cut(text, max_units) == short


def test_a_text_has_title_body_and_an_uncut_address() -> None:
    """A cut address leads nowhere."""
    url = "https://example.org/o/42"
    assert sms_text("Sent", "It left.", url) == f"Sent\nIt left. {url}"
    assert sms_text("Same", "Same", "") == "Same"
    assert sms_text("", "See https://example.org/o/42 now", url) == "See https://example.org/o/42 now"
    assert sms_text("", "", url) == url
    long = sms_text("T", "b" * 3_000, url)
    assert len(long) == MAX_CHARS
    assert long.endswith(f"b... {url}")
