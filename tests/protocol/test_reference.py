"""The generated documents are fresh, complete, and true of what goes over the wire."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import (
    CODES,
    CloseCode,
    Command,
    Event,
    Reply,
    Wire,
    encode_payload,
    limits,
    may_reconnect,
    reference,
)
from protocol.errors import CLOSE_MEANINGS, PROTOCOL_CODES, REFUSED_CODES, UNAVAILABLE_CODES
from protocol.reference import (
    COMMANDS,
    EVENTS,
    REPLIES,
    documents,
    limits_with_reasons,
    main,
    reply_of,
    tag_of,
)
from tests import strategies
from tests.strategies import examples

TEXTS = documents()
PAGE = TEXTS["REFERENCE.md"]
SCHEMA: dict[str, Any] = json.loads(TEXTS["schema.json"])
ASYNCAPI: dict[str, Any] = json.loads(TEXTS["asyncapi.json"])

by_name = pytest.mark.parametrize("kind", [*COMMANDS, *REPLIES, *EVENTS], ids=lambda kind: kind.__name__)


def test_the_committed_documents_are_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    """Who reads them reads what this version speaks."""
    assert main(["--check"]) == 0, capsys.readouterr().out


def test_a_stale_document_is_named_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """CI says what to run, and does not repair in secret."""
    monkeypatch.setattr(reference, "FOLDER", tmp_path)
    assert main([]) == 0
    assert {path.name for path in tmp_path.iterdir()} == set(TEXTS)
    assert main(["--check"]) == 0
    (tmp_path / "REFERENCE.md").write_text(PAGE.replace("## Errors", "## Mistakes"), encoding="utf-8")
    (tmp_path / "schema.json").unlink()
    capsys.readouterr()
    assert main(["--check"]) == 1
    printed = capsys.readouterr().out
    assert "## Mistakes" in printed
    assert "stale: REFERENCE.md, schema.json." in printed
    assert "python -m protocol.reference" in printed
    assert "## Mistakes" in (tmp_path / "REFERENCE.md").read_text(encoding="utf-8")
    assert not (tmp_path / "schema.json").exists()


def test_the_documents_are_the_same_each_time() -> None:
    """Else they would be stale at random."""
    assert documents() == TEXTS


def test_the_unions_are_covered() -> None:
    """A type that is in a union is in the documents."""
    assert set(COMMANDS) == set(get_args(Command))
    assert set(REPLIES) == set(get_args(Reply))
    assert set(EVENTS) == set(get_args(Event))


@by_name
def test_every_type_has_its_place_on_the_page(kind: type[msgspec.Struct]) -> None:
    """A bot's author finds each type with its docstring, all its fields, and a command's answer."""
    sort = "command" if kind in COMMANDS else "reply" if kind in REPLIES else "event"
    assert kind.__doc__, "its docstring is its entry"
    _, _, section = PAGE.partition(f'<a id="{sort}-{tag_of(kind)}"></a>')
    section = section.split("<a id=")[0]
    assert section.startswith(f"\n### `{tag_of(kind)}`\n")
    assert kind.__doc__.split()[0] in section
    for field in msgspec.structs.fields(kind):
        assert field.encode_name == "id" or f"| `{field.encode_name}` |" in section
    if kind in COMMANDS:
        assert f"Answered by [`{tag_of(reply_of(kind))}`]" in section


def test_every_link_on_the_page_has_a_target() -> None:
    """Types are found by following links; a broken one is a type without its description."""
    targets = set(re.findall(r'<a id="([^"]+)">', PAGE))
    targets |= {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall("^## (.*)$", PAGE, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= targets


def test_every_error_code_is_documented_once_with_its_meaning() -> None:
    """Bad input of any kind gets a code that can be looked up; a code has one meaning and one remedy."""
    assert len(CODES) == len(PROTOCOL_CODES) + len(REFUSED_CODES) + len(UNAVAILABLE_CODES)
    for code, meaning in CODES.items():
        assert re.fullmatch("[a-z][a-z0-9_]*", code)
        retry = "yes" if code in UNAVAILABLE_CODES else "no"
        assert PAGE.count(f"| `{code}` | {meaning} | {retry} |") == 1


def test_every_close_code_tells_whether_to_reconnect() -> None:
    """Clients in the field decide by the number alone: below 4500 they come back, from there on they stop."""
    assert set(CLOSE_MEANINGS) == set(CloseCode)
    for code in CloseCode:
        assert code in (1000, 1001) or 4000 <= code < 5000
        again = "yes" if code < 4500 else "no"
        assert may_reconnect(code) is (again == "yes")
        assert f"| {int(code)} | `{code.name}` | {CLOSE_MEANINGS[code]} | {again} |" in PAGE


def test_every_limit_is_documented_with_its_reason() -> None:
    """A number without a reason is one that nobody dares to change."""
    documented = {name: reason for name, _, reason in limits_with_reasons()}
    assert set(documented) == {name for name in vars(limits) if name.isupper()}
    assert [name for name, reason in documented.items() if not reason] == []
    assert all(f"| `{name}` |" in PAGE for name in documented)


def test_the_schema_is_valid_json_schema() -> None:
    """Other languages generate their types from it."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    refs = set(re.findall(r'"\$ref": "#/\$defs/(\w+)"', TEXTS["schema.json"]))
    assert refs <= set(SCHEMA["$defs"])
    assert "discriminator" not in TEXTS["schema.json"]


@by_name
@given(data=st.data())
@examples(8, long=500)
def test_the_schema_accepts_what_is_really_sent(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    """A client that checks what it receives against the schema refuses nothing of ours."""
    payload = json.loads(encode_payload(data.draw(strategies.structs(kind)), Wire.JSON_WS))
    _validator(kind.__name__).validate(payload)
    assert payload["type"] == tag_of(kind)


@pytest.mark.parametrize(
    "payload",
    [
        {"type": "send", "conversation_id": "c1"},
        {"type": "send", "conversation_id": "c 1", "client_id": "k"},
        {"type": "send", "conversation_id": "c1\n", "client_id": "k"},
        {"type": "teleport"},
        {"conversation_id": "c1", "client_id": "k"},
        {"type": "sync", "conversation_id": "c1", "after": -1},
    ],
)
def test_the_schema_refuses_what_the_server_refuses(payload: dict[str, Any]) -> None:
    """A client's author finds a mistake before the server does."""
    assert not _validator("Command").is_valid(payload)


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_the_place_of_a_durable_event_is_required(kind: type[msgspec.Struct]) -> None:
    """Clients resume by seq: the documents must promise that it is there."""
    is_durable = kind not in reference.LIVE_EVENTS
    assert ("seq" in SCHEMA["$defs"][kind.__name__]["required"]) is is_durable


def test_asyncapi_describes_every_frame_and_every_answer() -> None:
    """Tools make clients from it: each command names its answer, each reference leads somewhere."""
    assert ASYNCAPI["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(ASYNCAPI["info"])
    assert {server["protocol"] for server in ASYNCAPI["servers"].values()} == {"ws", "tcp"}
    messages = ASYNCAPI["channels"]["session"]["messages"]
    assert set(messages) == {kind.__name__ for kind in (*COMMANDS, *REPLIES, *EVENTS)}
    operations = ASYNCAPI["operations"]
    for command in COMMANDS:
        operation = operations[tag_of(command)]
        assert operation["action"] == "receive"
        assert [_last(message) for message in operation["messages"]] == [command.__name__]
        assert [_last(message) for message in operation["reply"]["messages"]] == [
            reply_of(command).__name__,
            "Error",
        ]
    pushed = [operation for operation in operations.values() if operation["action"] == "send"]
    assert {_last(message) for operation in pushed for message in operation["messages"]} == {
        kind.__name__ for kind in EVENTS
    }
    for ref in re.findall(r'"\$ref": "#/([^"]+)"', TEXTS["asyncapi.json"]):
        found: Any = ASYNCAPI
        for key in ref.split("/"):
            found = found[key]


def _last(ref: dict[str, str]) -> str:
    return ref["$ref"].rsplit("/", 1)[1]


def _validator(name: str) -> Any:
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": SCHEMA["$defs"]})
