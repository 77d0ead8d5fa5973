"""Generate REFERENCE.md, schema.json and asyncapi.json from the Structs.

`python -m protocol.reference` writes them beside this file; `--check` only tells whether they are fresh and
exits 1 where they are not. What they say comes from the Structs' docstrings, `Meta`, the codes in errors.py
and the comments in limits.py, so a document can be stale but never at odds with the code it was made from.
"""

import argparse
import difflib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

import msgspec
from msgspec import inspect

from protocol import commands, errors, events, limits, replies, types
from protocol.codec import WS_SUBPROTOCOLS, Wire, encode_payload

FOLDER: Final = Path(__file__).parent
COMMANDS: Final[tuple[type[msgspec.Struct], ...]] = get_args(commands.Command)
REPLIES: Final[tuple[type[msgspec.Struct], ...]] = get_args(replies.Reply)
CONVERSATION_EVENTS: Final[tuple[type[msgspec.Struct], ...]] = get_args(events.ConversationEvent)
INBOX_EVENTS: Final[tuple[type[msgspec.Struct], ...]] = get_args(events.InboxEvent)
LIVE_EVENTS: Final[tuple[type[msgspec.Struct], ...]] = get_args(events.LiveEvent)
EVENTS: Final = CONVERSATION_EVENTS + INBOX_EVENTS + LIVE_EVENTS
UNIONS: Final[dict[str, tuple[type[msgspec.Struct], ...]]] = {
    "Command": COMMANDS,
    "Reply": REPLIES,
    "ConversationEvent": CONVERSATION_EVENTS,
    "InboxEvent": INBOX_EVENTS,
    "LiveEvent": LIVE_EVENTS,
    "Event": EVENTS,
}


def documents() -> dict[str, str]:
    """Give the text of every generated file by its name. The same Structs give the same bytes."""
    return {
        "REFERENCE.md": reference_markdown(),
        "schema.json": _dump(json_schema()),
        "asyncapi.json": _dump(asyncapi()),
    }


def main(argv: list[str] | None = None) -> int:
    """Write the documents, or with `--check` compare them; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m protocol.reference", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 where a document is stale"
    )
    options = parser.parse_args(argv)
    stale = []
    for name, text in documents().items():
        path = FOLDER / name
        present = path.read_text(encoding="utf-8") if path.exists() else ""
        if present == text:
            continue
        stale.append(name)
        if options.check:
            diff = difflib.unified_diff(
                present.splitlines(),
                text.splitlines(),
                f"{name} as it is",
                f"{name} as it should be",
                lineterm="",
                n=1,
            )
            print("\n".join(list(diff)[:20]))
        else:
            path.write_text(text, encoding="utf-8", newline="\n")
            print(f"wrote {path.name}")
    if stale and options.check:
        print(f"stale: {', '.join(stale)}. Run `python -m protocol.reference` and commit what it writes.")
        return 1
    return 0


def tag_of(struct: type[msgspec.Struct]) -> str:
    """Give the value of a Struct's `type` field on the wire."""
    return str(struct.__struct_config__.tag)


def reply_of(command: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """Give the Struct that answers a command, as the command's class states it."""
    reply = getattr(command, "reply")  # noqa: B009 - a ClassVar of the commands' private base class
    assert isinstance(reply, type)
    assert issubclass(reply, msgspec.Struct)
    return reply


# What follows makes JSON Schema and AsyncAPI; below it, the page for people.


def json_schema() -> dict[str, Any]:
    """Describe every frame's payload in JSON Schema 2020-12: `$defs` holds each Struct and each union."""
    _, components = msgspec.json.schema_components(_every_struct(), ref_template="#/$defs/{name}")
    unions = {
        name: {"title": name, "anyOf": [{"$ref": f"#/$defs/{struct.__name__}"} for struct in structs]}
        for name, structs in UNIONS.items()
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hubbub protocol",
        "description": "The payload of any frame. From clients: Command. From servers: Reply or Event.",
        "anyOf": [{"$ref": f"#/$defs/{name}"} for name in ("Command", "Reply", "Event")],
        # `discriminator` belongs to OpenAPI; in JSON Schema the `type` enums say the same.
        "$defs": unions | _as_on_the_wire(components),
    }


def asyncapi() -> dict[str, Any]:
    """Describe the connection in AsyncAPI 3.0, as the server sees it: commands are received."""
    _, schemas = msgspec.json.schema_components(_every_struct(), ref_template="#/components/schemas/{name}")
    channel = {"$ref": "#/channels/session"}

    def messages(structs: Iterable[type[msgspec.Struct]]) -> list[dict[str, str]]:
        return [{"$ref": f"#/channels/session/messages/{struct.__name__}"} for struct in structs]

    operations: dict[str, Any] = {}
    for command in COMMANDS:
        operations[tag_of(command)] = {
            "action": "receive",
            "channel": channel,
            "summary": _summary(command),
            "messages": messages([command]),
            "reply": {"channel": channel, "messages": messages([reply_of(command), replies.Error])},
        }
    for name, structs, summary in (
        ("conversation_events", CONVERSATION_EVENTS, "Durable: gapless `seq` in one conversation."),
        ("inbox_events", INBOX_EVENTS, "Durable: gapless `seq` in the user's own inbox."),
        (
            "live_events",
            LIVE_EVENTS,
            "Not stored: coalesced, and announced by `resync` where durable events were left out.",
        ),
    ):
        operations[name] = {
            "action": "send",
            "channel": channel,
            "summary": summary,
            "messages": messages(structs),
        }
    every_frame = COMMANDS + REPLIES + EVENTS
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "hubbub protocol",
            "version": "1.0.0",
            "description": (
                "Chat over one connection, seen from the server: it receives commands, answers each, and "
                "sends events. REFERENCE.md says the same for people, with errors, close codes and limits."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "websocket": {
                "host": "localhost:8080",
                "pathname": "/ws",
                "protocol": "ws",
                "description": (
                    "One payload per message: JSON in text frames (subprotocol hubbub.json) or MessagePack "
                    "in binary frames (subprotocol hubbub.msgpack). `wss` where TLS is configured."
                ),
            },
            "tcp": {
                "host": "localhost:8081",
                "protocol": "tcp",
                "description": (
                    "For bots: MessagePack, each payload behind its length in bytes as 4 bytes, big-endian. "
                    "A length of 0 is a keep-alive."
                ),
            },
        },
        "channels": {
            "session": {
                "address": None,
                "title": "One connected device",
                "servers": [{"$ref": "#/servers/websocket"}, {"$ref": "#/servers/tcp"}],
                "messages": {
                    s.__name__: {"$ref": f"#/components/messages/{s.__name__}"} for s in every_frame
                },
                "bindings": {
                    "ws": {
                        "method": "GET",
                        "headers": {
                            "type": "object",
                            "properties": {
                                "Sec-WebSocket-Protocol": {"type": "string", "enum": sorted(WS_SUBPROTOCOLS)}
                            },
                        },
                    }
                },
            }
        },
        "operations": operations,
        "components": {
            "messages": {struct.__name__: _asyncapi_message(struct) for struct in every_frame},
            # AsyncAPI knows `discriminator` only as a bare property name; the `type` enums say the same.
            "schemas": _as_on_the_wire(schemas),
        },
    }


def _asyncapi_message(struct: type[msgspec.Struct]) -> dict[str, Any]:
    message: dict[str, Any] = {
        "name": tag_of(struct),
        "title": struct.__name__,
        "summary": _summary(struct),
        "payload": {"$ref": f"#/components/schemas/{struct.__name__}"},
    }
    if struct not in EVENTS:
        message["correlationId"] = {
            "description": "Chosen by the client, repeated in the answer.",
            "location": "$message.payload#/id",
        }
    return message


def _every_struct() -> list[type[msgspec.Struct]]:
    return [*COMMANDS, *REPLIES, *EVENTS]


def always_sent(struct: type[msgspec.Struct]) -> list[str]:
    """Name the fields that have a default in the code only: one that their own limits would refuse.

    So is a durable event's place in its stream, which the store knows better than the event's body.
    """
    hints = get_type_hints(struct, include_extras=True)
    names = []
    for field in msgspec.structs.fields(struct):
        if field.default is msgspec.NODEFAULT:
            continue
        try:
            msgspec.convert(field.default, hints[field.name])
        except msgspec.ValidationError:
            names.append(field.encode_name)
    return names


def _as_on_the_wire(components: dict[str, Any]) -> dict[str, Any]:
    schemas: dict[str, Any] = _without_discriminators(components)
    for struct in _every_struct() + _shared_structs():
        schema = schemas[struct.__name__]
        schema["description"] = _doc(struct)  # Python 3.13 dedents docstrings, older ones do not
        for name in always_sent(struct):
            del schema["properties"][name]["default"]
            schema["required"].append(name)
    return schemas


def _without_discriminators(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_discriminators(item)
            for key, item in value.items()
            if not (key == "discriminator" and isinstance(item, dict) and "propertyName" in item)
        }
    if isinstance(value, list):
        return [_without_discriminators(item) for item in value]
    return value


def _dump(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


# The page for people.


def reference_markdown() -> str:
    """Write the reference for those who write clients and bots."""
    return "\n".join(
        [
            *_introduction(),
            *_commands(),
            *_section("Replies", "Each repeats the command's `id`; `error` may answer any command.", REPLIES),
            *_events(),
            *_shared_types(),
            *_errors(),
            *_close_codes(),
            *_limits(),
        ]
    )


def _introduction() -> Iterator[str]:
    hello = commands.Hello(id=1, token="…", device_id="laptop-7f3a", client="readme/1.0")
    send = commands.Send(id=2, conversation_id="c1", client_id="k-0001", text="Hello, world")
    sent = replies.Sent(id=2, conversation_id="c1", seq=42, at_ms=1_700_000_000_000)
    posted = events.MessagePosted(
        conversation_id="c1", seq=43, at_ms=1_700_000_000_500, user_id="u2", text="Hello", message_count=40
    )
    error = replies.Error(id=3, code="rate_limited", message=errors.CODES["rate_limited"], retry_after_s=2.0)
    yield f"""\
# hubbub protocol reference

Generated from the Structs in this folder by `python -m protocol.reference`; do not edit. For machines the
same is in [schema.json](schema.json) (JSON Schema 2020-12) and [asyncapi.json](asyncapi.json) (AsyncAPI 3.0).

- [Transports](#transports) · [Envelope](#envelope) · [Order and catching up](#order-and-catching-up)
- [Commands](#commands) · [Replies](#replies) · [Events](#events) · [Shared types](#shared-types)
- [Errors](#errors) · [Close codes](#close-codes) · [Limits](#limits)

## Transports

One schema, spoken three ways. All three carry the same commands, replies and events.

| transport | for | where | payloads |
|---|---|---|---|
| WebSocket, subprotocol `hubbub.json` | browsers, apps | port 8080, `GET /ws` | JSON, one per text frame |
| WebSocket, subprotocol `hubbub.msgpack` | apps | port 8080, `GET /ws` | MessagePack, one per binary frame |
| TCP | bots | port 8081 | MessagePack, each behind its length (4 bytes, big-endian) |

In MessagePack an object is a map with the same field names as in JSON. A client's frame may be
{limits.MAX_FRAME_BYTES:,} bytes long. Over TCP a length of 0 is a keep-alive.

## Envelope

Each payload is an object with a `type`. A client chooses `id` for each command (1 to 2^53 - 1), and the
answer repeats it; events have none. A command without `id`, or with 0, is carried out and only its error is
answered. Answers may come in another order than the commands.

What one connection sends into one conversation is stored in the order of sending. `open_direct`,
`create_group`, `add_members`, `join` and `update_profile` look things up before they take effect, so a
command that builds on one of them waits for its answer.

```
→ {_json(hello)}
→ {_json(send)}
← {_json(sent)}
← {_json(posted)}
← {_json(error)}
```

- `hello` comes first, within {limits.HELLO_TIMEOUT_S:g} s, and is answered by `welcome`.
- Then a `heartbeat` about every {limits.HEARTBEAT_INTERVAL_S:g} s; after {limits.HEARTBEAT_TIMEOUT_S:g} s of
  silence a device counts as gone.
- A field that has its default may be left out, in both directions. Fields that a reader does not know are
  skipped.
- Schemas only grow: new fields have defaults, meanings stay, codes are never reused. A client skips events
  whose `type` it does not know. An unknown command is answered by the error `unknown_type`, and the
  connection stays up.
- All integers are below 2^53, so that JavaScript keeps them exact. Times are Unix milliseconds, UTC.

## Order and catching up

Durable events carry a `seq` that has no gaps: one numbering for each conversation, one for each user's inbox.
A device keeps the last seq it has as its *cursor*. It may meet an event twice (skip it: its seq is not above
the cursor) or see a hole (`sync` from the cursor). After a reconnect, `welcome` lists the heads of what the
device has missed, and `sync` and `sync_inbox` read it, in order.

An answer to `send` means that the message is stored on disk. Where no answer came, send it again with the
same `client_id`: it is stored once, and the first answer comes again.
"""


def _commands() -> Iterator[str]:
    yield "## Commands\n"
    yield "`error` may answer any of them. To a command with `id` 0 only an `error` is sent.\n"
    yield "| command | answer | what it does |\n|---|---|---|"
    for command in COMMANDS:
        yield f"| {_link(command)} | {_link(reply_of(command))} | {_cell(_summary(command))} |"
    yield ""
    for command in COMMANDS:
        yield from _struct(command, f"Answered by {_link(reply_of(command))}.")


def _events() -> Iterator[str]:
    yield """\
## Events

Pushed by the server. *Durable* events are stored and numbered: what is missed is read by `sync`. *Live*
events are not stored; they may be coalesced, and where durable events had to be left out of the live stream,
`resync` says so.

| event | kind | what it tells |
|---|---|---|"""
    kinds = (
        ("durable, conversation", CONVERSATION_EVENTS),
        ("durable, inbox", INBOX_EVENTS),
        ("live", LIVE_EVENTS),
    )
    for kind, structs in kinds:
        for struct in structs:
            yield f"| {_link(struct)} | {kind} | {_cell(_summary(struct))} |"
    yield ""
    for kind, structs in kinds:
        for struct in structs:
            yield from _struct(struct, f"Kind: {kind}.")


def _shared_types() -> Iterator[str]:
    yield "## Shared types\n"
    yield '<a id="ids"></a>**id**: a string of 1 to 64 of the characters `A-Z a-z 0-9 _ -`. Opaque.\n'
    for struct in _shared_structs():
        yield from _struct(struct, "")


def _errors() -> Iterator[str]:
    yield """\
## Errors

`error` carries a stable `code`, a `message` for a person (its wording may change), and `retry_after_s` where
the same command may succeed later. The HTTP API uses the same codes.
"""
    for title, who, codes in (
        (
            "The client's language is wrong",
            "The client's author must act; sending it again does not help. Errors of framing are followed by"
            " a close, the others leave the connection up.",
            errors.PROTOCOL_CODES,
        ),
        (
            "Refused",
            "Understood and declined: the user must do something else first, as the same command will be"
            " refused again. The connection stays up.",
            errors.REFUSED_CODES,
        ),
        (
            "Unavailable",
            "The client need change nothing: send the same command again after `retry_after_s`, with the"
            " same `client_id` where it has one.",
            errors.UNAVAILABLE_CODES,
        ),
    ):
        yield f"### {title}\n\n{who}\n\n| code | meaning | retry |\n|---|---|---|"
        retry = "yes" if codes is errors.UNAVAILABLE_CODES else "no"
        for code, meaning in codes.items():
            yield f"| `{code}` | {_cell(meaning)} | {retry} |"
        yield ""


def _close_codes() -> Iterator[str]:
    yield """\
## Close codes

Of the WebSocket; over TCP the event `closing` carries them. 4000-4499: connect again, with jitter, and resume
by cursor. 4500-4999: stop, a person or another version must act.

| code | name | meaning | connect again |
|---|---|---|---|"""
    for code in errors.CloseCode:
        again = "yes" if errors.may_reconnect(code) else "no"
        yield f"| {int(code)} | `{code.name}` | {_cell(errors.CLOSE_MEANINGS[code])} | {again} |"
    yield ""


def _limits() -> Iterator[str]:
    yield "## Limits\n\nUnits ride in the names. `limits` in `welcome` is what this server accepts.\n"
    yield "| limit | value | reason |\n|---|---|---|"
    for name, value, reason in limits_with_reasons():
        yield (
            f"| `{name}` | {value:,} | {_cell(reason)} |"
            if isinstance(value, int)
            else (f"| `{name}` | {value:g} | {_cell(reason)} |")
        )
    yield ""


def limits_with_reasons() -> Iterator[tuple[str, int | float, str]]:
    """Yield each constant of limits.py with its value and the comment that stands on its line."""
    source = Path(limits.__file__).read_text(encoding="utf-8")
    for line in re.finditer(r"^([A-Z][A-Z0-9_]*): Final = [^#\n]*?(?:  # (.*))?$", source, re.MULTILINE):
        yield line[1], getattr(limits, line[1]), line[2] or ""


def _section(title: str, text: str, structs: Iterable[type[msgspec.Struct]]) -> Iterator[str]:
    yield f"## {title}\n\n{text}\n"
    for struct in structs:
        yield from _struct(struct, "")


def _struct(struct: type[msgspec.Struct], more: str) -> Iterator[str]:
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    yield f'<a id="{_anchor(struct)}"></a>\n### `{_name(struct)}`\n'
    yield f"{_doc(struct)} {more}".strip() + "\n"
    needed = always_sent(struct)
    fields = [field for field in info.fields if not (field.name == "id" and info.tag is not None)]
    if not fields:
        yield f"No fields{' but `id`' if struct not in EVENTS else ''}.\n"
        return
    yield "| field | type | default | meaning |\n|---|---|---|---|"
    for field in fields:
        default = "always sent" if field.encode_name in needed else _default(field)
        yield (
            f"| `{field.encode_name}` | {_cell(_shape(field.type))} | {default} | "
            f"{_cell(_description(field.type))} |"
        )
    yield ""


def _shape(kind: inspect.Type) -> str:
    """Say in words what a value may be."""
    match kind:
        case inspect.Metadata():
            return _shape(kind.type)
        case inspect.StrType(pattern=types.ID_PATTERN):
            return "[id](#ids)"
        case inspect.StrType():
            return "string" + _range(kind.min_length, kind.max_length, " characters")
        case inspect.IntType():
            return "integer" + _range(kind.ge, None if kind.le == limits.MAX_SAFE_INTEGER else kind.le, "")
        case inspect.FloatType():
            return "number" + _range(kind.ge, kind.le, "")
        case inspect.BoolType():
            return "boolean"
        case inspect.NoneType():
            return "null"
        case inspect.LiteralType():
            return " or ".join(f"`{_json(value)}`" for value in kind.values)
        case inspect.ListType():
            return f"list of {_shape(kind.item_type)}{_range(kind.min_length, kind.max_length, ' items')}"
        case inspect.DictType():
            size = _range(kind.min_length, kind.max_length, " entries")
            return f"map from {_shape(kind.key_type)} to {_shape(kind.value_type)}{size}"
        case inspect.StructType():
            return _link(kind.cls)
        case inspect.UnionType():
            members = {item.cls for item in kind.types if isinstance(item, inspect.StructType)}
            for name, structs in UNIONS.items():
                if members == set(structs):
                    return f"any [{name}](#events)"
            return " or ".join(_shape(item) for item in kind.types)
    raise TypeError(f"The reference has no words for {kind!r} yet.")


def _range(low: int | float | None, high: int | float | None, unit: str) -> str:
    if high is not None:
        return f", {low or 0:,} to {high:,}{unit}" if low else f", at most {high:,}{unit}"
    return f", at least {low:,}{unit}" if low else ""


def _description(kind: inspect.Type) -> str:
    """Take the nearest description: the field's own, else that of the type it is made of."""
    match kind:
        case inspect.Metadata():
            own = (kind.extra_json_schema or {}).get("description")
            return str(own) if own else _description(kind.type)
        case inspect.UnionType():
            return next((text for text in map(_description, kind.types) if text), "")
    return ""


def _default(field: inspect.Field) -> str:
    if field.required:
        return "required"
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    return f"`{_json(value)}`"


def _shared_structs() -> list[type[msgspec.Struct]]:
    """Find the Structs that frames are made of, by name."""
    frames = set(_every_struct())
    found = {
        part for struct in frames for part in _structs_in(inspect.type_info(struct)) if part not in frames
    }
    return sorted(found, key=lambda struct: struct.__name__)


def _structs_in(kind: inspect.Type) -> Iterator[type[msgspec.Struct]]:
    match kind:
        case inspect.Metadata():
            yield from _structs_in(kind.type)
        case inspect.StructType():
            yield kind.cls
            for field in kind.fields:
                yield from _structs_in(field.type)
        case inspect.ListType():
            yield from _structs_in(kind.item_type)
        case inspect.DictType():
            yield from _structs_in(kind.value_type)
        case inspect.UnionType():
            for item in kind.types:
                yield from _structs_in(item)


def _doc(struct: type[msgspec.Struct]) -> str:
    return re.sub(r"\s+", " ", struct.__doc__ or "").strip()


def _summary(struct: type[msgspec.Struct]) -> str:
    return re.sub(r"\s+", " ", (struct.__doc__ or "").split("\n\n")[0]).strip()


def _name(struct: type[msgspec.Struct]) -> str:
    return tag_of(struct) if struct.__struct_config__.tag is not None else struct.__name__


def _anchor(struct: type[msgspec.Struct]) -> str:
    """Name a place on the page; commands, replies and events may share a word, so it says which it is."""
    kind = (
        "command"
        if struct in COMMANDS
        else "reply"
        if struct in REPLIES
        else "event"
        if struct in EVENTS
        else "type"
    )
    return f"{kind}-{_name(struct)}"


def _link(struct: type[msgspec.Struct]) -> str:
    return f"[`{_name(struct)}`](#{_anchor(struct)})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _json(value: Any) -> str:
    if isinstance(value, msgspec.Struct):
        return encode_payload(value, Wire.JSON_WS).decode()  # type: ignore[arg-type]  # only ever a frame's Struct
    return msgspec.json.encode(value).decode()


if __name__ == "__main__":
    sys.exit(main())
