"""The API's description: OpenAPI as JSON, and one page that shows it without any script.

The framework's own pages load scripts from the net; a self-hosted server must not.
"""

import html
import json
from typing import Any, Final

import msgspec
from litestar import Request, Response, Router, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.routes import BaseRoute
from litestar.types import ControllerRouterHandler

from protocol.commands import Command
from protocol.http import ErrorBody
from protocol.replies import Reply

STYLE: Final = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #8886; }
details { margin: .5rem 0; border: 1px solid #8886; border-radius: .5rem; padding: .5rem .75rem; }
summary { cursor: pointer; } summary code { font-weight: 600; }
.method { display: inline-block; min-width: 4.5rem; font: 600 .85rem ui-monospace, monospace; }
table { border-collapse: collapse; }
td, th { text-align: left; padding: .15rem .75rem .15rem 0; vertical-align: top; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; } pre { overflow-x: auto; }
"""
_METHODS: Final = ("get", "head", "post", "put", "patch", "delete")


def full_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Add to the framework's schema what it cannot see: the protocol's unions, and the answer to errors."""
    (command, reply, error), components = msgspec.json.schema_components(
        [Command, Reply, ErrorBody], ref_template="#/components/schemas/{name}"
    )
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    schemas.update({**components, "Command": command, "Reply": reply})
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if method not in _METHODS:
                continue
            if path in ("/v1/commands", "/v1/app/commands"):
                operation["requestBody"] = _json_content("Command")
                operation["responses"]["200"] = {"description": "The reply.", **_json_content("Reply")}
            elif path == "/v1/files" and method == "post":
                binary = {"schema": {"type": "string", "format": "binary"}}
                form = {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}
                operation["requestBody"] = {
                    "required": True,
                    "content": {"*/*": binary, "multipart/form-data": {"schema": form}},
                }
            if path == "/v1/app/commands":
                operation.setdefault("parameters", []).append(
                    {"name": "X-Hubbub-User", "in": "header", "required": True, "schema": {"type": "string"}}
                )
            # The framework describes its own answer to a bad request, which is never sent.
            operation["responses"].pop("400", None)
            operation["responses"]["default"] = {
                "description": "Not done; `code` says why.",
                "content": {"application/json": {"schema": error}},
            }
    return schema


def _json_content(name: str) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}}


class JsonSchema(OpenAPIRenderPlugin):
    """/v1/openapi.json."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        return msgspec.json.encode(full_schema(openapi_schema))


class HtmlPage(OpenAPIRenderPlugin):
    """/v1/docs."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        return page_of(full_schema(openapi_schema)).encode()


def page_of(schema: dict[str, Any]) -> str:
    """One HTML page of everything in the schema; no script, no style but /v1/docs.css."""
    by_tag: dict[str, list[str]] = {}
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if method in _METHODS and method != "head":
                tag = (operation.get("tags") or ["Other"])[0]
                by_tag.setdefault(tag, []).append(_operation(path, method, operation))
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        f"<title>{_text(schema['info']['title'])}</title>",
        "<link rel=icon href=/icon.svg><link rel=stylesheet href=/v1/docs.css></head><body>",
        f"<h1>{_text(schema['info']['title'])} {_text(schema['info']['version'])}</h1>",
        f"<p>{_text(schema['info'].get('description', ''))}</p>",
        "<p>For programs: <a href=/v1/openapi.json>/v1/openapi.json</a>.</p>",
    ]
    for tag, blocks in by_tag.items():
        parts += [f"<h2>{_text(tag)}</h2>", *blocks]
    parts.append("<h2>Types</h2>")
    for name, part in sorted(schema["components"]["schemas"].items()):
        shown = json.dumps(part, indent=1, ensure_ascii=False)
        parts.append(
            f'<details id="{_text(name)}"><summary><code>{_text(name)}</code> '
            f"{_text(str(part.get('description', '')))}</summary><pre>{_text(shown)}</pre></details>"
        )
    parts.append("</body></html>")
    return "".join(parts)


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{_text(item['name'])}</code></td><td>{_text(item['in'])}</td>"
        f"<td>{_text(item.get('description', ''))}</td></tr>"
        for item in operation.get("parameters", [])
    ]
    body = operation.get("requestBody", {}).get("content", {})
    answers = []
    for status, answer in operation["responses"].items():
        content = answer.get("content", {})
        answers.append(
            f"<tr><td>{_text(status)}</td><td>{_types(content)}</td><td>{_text(answer['description'])}</td></tr>"
        )
    needs = ", ".join(name for option in operation.get("security", []) for name in option)
    return (
        f"<details><summary><span class=method>{method.upper()}</span> <code>{_text(path)}</code> "
        f"{_text(operation.get('summary', ''))}</summary>"
        f"<p>{_text(operation.get('description', ''))}</p>"
        + (f"<p>Needs: {_text(needs)}</p>" if needs else "")
        + (f"<p>Parameters</p><table>{''.join(rows)}</table>" if rows else "")
        + (f"<p>Body: {_types(body)}</p>" if body else "")
        + f"<p>Answers</p><table>{''.join(answers)}</table></details>"
    )


def _types(content: dict[str, Any]) -> str:
    links = []
    for media_type, item in content.items():
        name = str(item.get("schema", {}).get("$ref", "")).rpartition("/")[2]
        links.append(f'<a href="#{_text(name)}">{_text(name)}</a>' if name else _text(media_type))
    return ", ".join(links)


def _text(raw: str) -> str:
    return html.escape(str(raw))


@get("/v1/docs.css", include_in_schema=False)
async def style() -> Response[str]:
    """The page's only style sheet."""
    return Response(
        STYLE, headers={"content-type": "text/css; charset=utf-8", "cache-control": "max-age=3600"}
    )


class _DocsRouter(Router):
    """Leave out the framework's own page for unknown addresses under /v1: ours are JSON everywhere."""

    def register(self, value: ControllerRouterHandler) -> list[BaseRoute]:
        if isinstance(value, HTTPRouteHandler) and "/{path:str}" in value.paths:
            return []
        return super().register(value)


def openapi_config(version: str) -> OpenAPIConfig:
    """What the framework needs to know."""
    return OpenAPIConfig(
        title="hubbub",
        version=version,
        description="Accounts, files, posts, feeds and single commands over HTTP. Everything live goes over"
        " WebSocket at /ws; its language is protocol/REFERENCE.md.",
        openapi_router=_DocsRouter(path="/v1", route_handlers=[], include_in_schema=False),
        render_plugins=[
            HtmlPage(path="/docs"),
            JsonSchema(path="/openapi.json", media_type="application/json"),  # type: ignore[arg-type]
        ],
        use_handler_docstrings=True,
        components=Components(
            security_schemes={
                "bearer": SecurityScheme(
                    type="http", scheme="bearer", description="A session or bot token, or a JWT."
                ),
                "app_key": SecurityScheme(type="http", scheme="basic", description="App key and app secret."),
                "app_bearer": SecurityScheme(
                    type="http", scheme="bearer", description="APP_KEY:APP_SECRET as the bearer's token."
                ),
                "app_signature": SecurityScheme(
                    type="apiKey",
                    name="X-Hubbub-Signature",
                    security_scheme_in="header",
                    description="See docs/NOTIFICATIONS.md, with X-Hubbub-Key, -Timestamp and -Nonce.",
                ),
                "sig": SecurityScheme(
                    type="apiKey", name="sig", security_scheme_in="query", description="From /v1/files/sig."
                ),
                "admin": SecurityScheme(type="http", scheme="bearer", description="The admin token."),
            }
        ),
    )
