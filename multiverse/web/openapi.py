"""The OpenAPI document, made from ROUTES and the schemas with apispec: the only module that knows the library.

What ROUTES says is not said again here. Only what a schema cannot know stands here: examples, and which errors a kind
of route has. Source: OpenAPI Specification 3.1.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

import msgspec
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin

from multiverse import __version__, errors
from multiverse.errors import GatewayError, envelope
from multiverse.web.handlers.events import EventsHandler
from multiverse.web.handlers.inference import ForwardHandler
from multiverse.web.handlers.pages import PageHandler
from multiverse.web.openapi_examples import (
    ERROR_MESSAGES,
    EVENTS,
    FIELD_MEANINGS,
    JSON,
    PAGE,
    REPLIES,
    REQUESTS,
)
from multiverse.web.openapi_replies import REPLY_SCHEMAS
from multiverse.web.route import Route
from multiverse.web.schemas import Schema, limits_of

HEADERS_OF_ALL = {"X-Request-ID": {"description": "The request's id.", "schema": {"type": "string"}}}
ERROR_REFERENCE = {"$ref": "#/components/schemas/Error"}
PARAMETER = re.compile(r"\{(\w+)\}")
ERROR_SHAPE = {
    "type": "object",
    "description": "What every answer other than 2xx holds.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "What went wrong and what to do next."},
                "type": {"type": "string", "description": "The family of the error, as OpenAI's libraries know them."},
                "param": {"type": ["string", "null"], "description": "The field at fault."},
                "code": {"type": ["string", "null"], "description": "The error's own name."},
            },
        }
    },
}
RETRY_AFTER_CODES = frozenset(
    {"rate_limit_exceeded", "no_server_available", "overloaded", "model_loading", "shutting_down"}
)
CODES_OF_PARAMETERS = MappingProxyType(
    {"registration_id": "server_not_found", "key_id": "key_not_found", "code_id": "claim_code_not_valid"}
)
MORE_CODES = MappingProxyType(
    {
        "POST /session": frozenset({"invalid_api_key"}),
        "GET /metrics": frozenset({"invalid_api_key"}),
        "POST /claim": frozenset({"claim_code_not_valid"}),
        "POST /admin/probe": frozenset({"server_not_found"}),
        "POST /admin/lend": frozenset({"no_server_available"}),
        "GET /v1/models/{id}": frozenset({"model_not_found"}),
        "DELETE /admin/aliases/{name}": frozenset({"model_not_found"}),
    }
)
# A body says more, and need not be there.
WITHOUT_A_BODY = frozenset({"POST /admin/lend"})
DESCRIPTION = (
    "Shares the AI models of a class through one OpenAI-compatible address. A key travels in a header, never in a URL: "
    "`Authorization: Bearer KEY` or `X-API-Key: KEY`. Every answer has an `X-Request-ID`."
)


def document_bytes(routes: Sequence[Route]) -> bytes:
    """The document as JSON, in UTF-8."""
    return msgspec.json.encode(openapi_document(routes))


def openapi_document(routes: Sequence[Route]) -> dict[str, Any]:
    """The document for these routes, as JSON values."""
    plugin = MarshmallowPlugin(schema_name_resolver=_schema_name)
    spec = APISpec(
        title="Multiverse Inference Gateway",
        version=__version__,
        openapi_version="3.1.0",
        plugins=[plugin],
        info={"description": DESCRIPTION, "license": {"name": "MIT", "identifier": "MIT"}},
        servers=[{"url": "/", "description": "This gateway."}],
        tags=[{"name": name} for name in dict.fromkeys(map(_tag, routes))],
    )
    assert plugin.converter is not None
    plugin.converter.add_attribute_function(_meaning)  # type: ignore[no-untyped-call]
    spec.components.schema("Error", ERROR_SHAPE)
    for kind in _all_errors(GatewayError):
        if kind.code not in spec.components.examples:
            spec.components.example(kind.code, {"value": _error_example(kind)})
    spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer"})
    spec.components.security_scheme("header", {"type": "apiKey", "in": "header", "name": "X-API-Key"})
    for route in routes:
        spec.path(
            path=route.shown,
            operations={method.lower(): _operation(spec, route, method) for method in route.methods},
            parameters=[_path_parameter(name) for name in PARAMETER.findall(route.shown)],
        )
    made: dict[str, Any] = spec.to_dict()
    return made


def _schema_name(schema: Any) -> str:
    kind = schema if isinstance(schema, type) else type(schema)
    return str(kind.__name__).removesuffix("Schema")


def _meaning(converter: Any, field: Any, **kwargs: Any) -> dict[str, Any]:
    """What a field is for, and the limits that marshmallow does not know of."""
    name = str(field.name or "")
    described = {"description": FIELD_MEANINGS[name]} if name in FIELD_MEANINGS else {}
    return {**described, **limits_of(field)}


def _tag(route: Route) -> str:
    first = route.shown.split("/")[1]
    return {"v1": "inference", "admin": "admin"}.get(first, "system")


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _operation(spec: APISpec, route: Route, method: str) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(route, method),
        "summary": route.methods[method],
        "tags": [_tag(route)],
        "responses": {**_replies(route, method), **_refusals(spec, route, method)},
    }
    if route.access != "anyone":
        keys: list[dict[str, list[str]]] = [{"bearer": []}, {"header": []}]
        # A client's key may be left out while REQUIRE_CLIENT_API_KEY=false; an empty requirement says so.
        operation["security"] = [{}, *keys] if route.access == "client" else keys
    if route.query_schema is not None and method == "GET":
        operation["parameters"] = [{"in": "query", "schema": route.query_schema}]
    if route.request_schema is not None and method in ("POST", "PUT", "PATCH"):
        operation["requestBody"] = {
            "required": f"{method} {route.shown}" not in WITHOUT_A_BODY,
            "content": {JSON: _request(route, method)},
        }
    return operation


def _operation_id(route: Route, method: str) -> str:
    words = re.findall(r"\w+", route.shown) or ["root"]
    return "_".join([method.lower(), *words]).replace("-", "_")


def _request(route: Route, method: str) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": route.request_schema}
    example = REQUESTS.get(f"{method} {route.shown}")
    return content if example is None else {**content, "example": example}


def _replies(route: Route, method: str) -> dict[str, Any]:
    """What comes when all is well."""
    told = REPLIES.get(f"{method} {route.shown}", ((200, "Done.", _usual_kind(route, method), None),))
    schema = REPLY_SCHEMAS.get(f"{method} {route.shown}")
    replies = {str(status): _reply(text, kinds.split(), example, schema) for status, text, kinds, example in told}
    if method == "GET" and issubclass(route.handler, PageHandler) and route.handler.audience != "anyone":
        replies["303"] = _reply("To where one signs in first.", [], None, None)
        replies["303"]["headers"]["Location"] = {"schema": {"type": "string"}}
    return replies


def _usual_kind(route: Route, method: str) -> str:
    if method == "GET" and issubclass(route.handler, PageHandler):
        return PAGE
    return EVENTS if issubclass(route.handler, EventsHandler) else JSON


def _reply(text: str, kinds: list[str], example: Any, schema: type[Schema] | None) -> dict[str, Any]:
    content: dict[str, Any] = {kind: {"schema": {"type": "string"}} for kind in kinds}
    if JSON in content:
        content[JSON] = {"schema": schema or {"type": "object"}}
    if example is not None:
        content[kinds[0]]["example"] = example
    return {"description": text, "headers": {**HEADERS_OF_ALL}, **({"content": content} if content else {})}


# -- errors


def _all_errors(base: type[GatewayError]) -> Iterator[type[GatewayError]]:
    for child in base.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from _all_errors(child)


def _forwards(route: Route) -> bool:
    return issubclass(route.handler, ForwardHandler)


def _codes(route: Route, method: str) -> set[str]:
    """The codes that this operation may answer with."""
    codes = {"invalid_request", "not_found", "method_not_allowed", "request_too_large", "internal_error"}
    if not route.answers_while_draining:
        codes.add("shutting_down")
    if route.access != "anyone":
        codes |= {"invalid_api_key", "permission_denied", "rate_limit_exceeded"}
    elif method != "GET":
        codes |= {"permission_denied", "rate_limit_exceeded"}  # another site's page; too many wrong keys or codes
    if route.request_schema is not None and method in ("POST", "PUT", "PATCH"):
        codes.add("unsupported_media_type")
    if route.shown == "/admin/register" or method == "PUT":
        codes.add("no_server_available")  # `require_healthy`
    codes |= MORE_CODES.get(f"{method} {route.shown}", frozenset())
    codes |= {code for name, code in CODES_OF_PARAMETERS.items() if f"{{{name}}}" in route.shown}
    if _forwards(route):
        codes |= {"model_not_found", "server_error", "server_timeout", "no_server_available", "overloaded"}
        codes |= {"model_loading", "loop_detected"}
    return codes


def _refusals(spec: APISpec, route: Route, method: str) -> dict[str, Any]:
    """The error answers, by status, as the document keeps them once for all; a server may refuse with any 4xx."""
    codes = _codes(route, method)
    by_status: dict[int, dict[str, type[GatewayError]]] = {}
    for error in _all_errors(GatewayError):
        if error.code in codes and error is not errors.ServerRefused:
            by_status.setdefault(error.status, {}).setdefault(error.code, error)
    refusals: dict[str, Any] = {}
    for status in sorted(by_status):
        name = ".".join([str(status), *by_status[status]])
        if name not in spec.components.responses:
            spec.components.response(name, _refusal(status, by_status[status]))
        refusals[str(status)] = {"$ref": f"#/components/responses/{name}"}
    if _forwards(route):
        refusals["4XX"] = {
            "description": "What a server itself answered to the request: its own error where it has OpenAI's shape.",
            "content": {JSON: {"schema": ERROR_REFERENCE}},
        }
    return refusals


def _refusal(status: int, kinds: dict[str, type[GatewayError]]) -> dict[str, Any]:
    examples = {code: {"$ref": f"#/components/examples/{code}"} for code in kinds}
    headers: dict[str, Any] = {**HEADERS_OF_ALL}
    if RETRY_AFTER_CODES & set(kinds):
        headers["Retry-After"] = {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1, "maximum": 60}}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = {"schema": {"type": "string"}}
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = {"schema": {"type": "string"}}
    return {
        "description": f"{HTTPStatus(status).phrase}: {', '.join(f'`{code}`' for code in kinds)}.",
        "headers": headers,
        "content": {JSON: {"schema": ERROR_REFERENCE, "examples": examples}},
    }


def _error_example(kind: type[GatewayError]) -> dict[str, Any]:
    if kind is errors.InvalidAPIKey or kind is errors.ShuttingDown:
        return envelope(kind())
    message, param = ERROR_MESSAGES.get(kind.code, ("The gateway failed while handling this request.", None))
    shown = envelope(GatewayError(message, param=param))
    return {"error": {**shown["error"], "type": kind.type, "code": kind.code}}
