"""The OpenAPI document, made from ROUTES and the schemas with apispec: the only module that knows the library.

What ROUTES says is not said again here. Only what a schema cannot know stands here: examples, and which errors a kind
of route has. Source: OpenAPI Specification 3.1.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from http import HTTPStatus
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
    RETRY_AFTER_CODES,
)
from multiverse.web.reply_schemas import REPLY_SCHEMAS
from multiverse.web.route import Route
from multiverse.web.schemas import Schema, limits_of

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
    spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer"})
    spec.components.security_scheme("header", {"type": "apiKey", "in": "header", "name": "X-API-Key"})
    for route in routes:
        spec.path(
            path=route.shown,
            operations={method.lower(): _operation(route, method) for method in route.methods},
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


def _operation(route: Route, method: str) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(route, method),
        "summary": route.methods[method],
        "tags": [_tag(route)],
        "responses": {**_replies(route, method), **_refusals(route, method)},
    }
    if route.access != "anyone":
        keys: list[dict[str, list[str]]] = [{"bearer": []}, {"header": []}]
        # A client's key may be left out while REQUIRE_CLIENT_API_KEY=false; an empty requirement says so.
        operation["security"] = [{}, *keys] if route.access == "client" else keys
    if route.query_schema is not None and method == "GET":
        operation["parameters"] = [{"in": "query", "schema": route.query_schema}]
    if route.request_schema is not None and method in ("POST", "PUT", "PATCH"):
        operation["requestBody"] = {"required": True, "content": {JSON: _request(route, method)}}
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
    whole = REPLY_SCHEMAS.get(f"{method} {route.shown}")
    return {str(status): _reply(route, text, kinds.split(), example, whole) for status, text, kinds, example in told}


def _usual_kind(route: Route, method: str) -> str:
    if method == "GET" and issubclass(route.handler, PageHandler):
        return PAGE
    return EVENTS if issubclass(route.handler, EventsHandler) else JSON


def _reply(route: Route, text: str, kinds: list[str], example: Any, whole: type[Schema] | None) -> dict[str, Any]:
    reply: dict[str, Any] = {"description": text, "headers": {"X-Request-ID": {"schema": {"type": "string"}}}}
    content: dict[str, Any] = {kind: {"schema": {"type": "string"}} for kind in kinds}
    if JSON in content:
        content[JSON] = {"schema": whole or _reply_schema(route.reply_schema, example)}
        if example is not None:
            content[JSON]["example"] = example
    return {**reply, "content": content}


def _reply_schema(schema: type[Schema] | None, example: Any) -> Any:
    return shape_of(example, schema) if example is not None else schema or {"type": "object"}


def shape_of(value: Any, schema: type[Schema] | None = None) -> Any:
    """The JSON schema that an example shows: fields and types; fields with a null may be anything.

    An object with all the fields of `schema` is one of those, with what it has besides.
    """
    match value:
        case bool():
            return {"type": "boolean"}
        case int() | float():
            return {"type": "number"}
        case str():
            return {"type": "string"}
        case list():
            return {"type": "array", "items": shape_of(value[0], schema) if value else {}}
        case dict():
            known = set(schema().fields) if schema is not None else set()
            is_record = bool(known) and known <= set(value)
            others = [name for name in value if not is_record or name not in known]
            shapes = {name: shape_of(value[name], schema) for name in others}
            shown = {"type": "object", "properties": shapes}
            if not is_record:
                return shown
            return {"allOf": [schema, shown]} if shapes else schema
    return {}


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
    if route.request_schema is not None and method in ("POST", "PUT", "PATCH"):
        codes.add("unsupported_media_type")
    if "{registration_id}" in route.shown:
        codes.add("server_not_found")
    if route.shown.startswith("/v1/models/"):
        codes.add("model_not_found")
    if route.shown == "/claim":
        codes |= {"claim_code_not_valid", "rate_limit_exceeded"}
    if route.shown == "/admin/register" or method == "PUT":
        codes.add("no_server_available")  # `require_healthy`
    if _forwards(route):
        codes |= {"model_not_found", "server_error", "server_timeout", "no_server_available", "overloaded"}
        codes |= {"model_loading", "loop_detected"}
    return codes


def _refusals(route: Route, method: str) -> dict[str, Any]:
    """The error answers, by status, each code with an example; what a server refuses may have any 4xx."""
    codes = _codes(route, method)
    by_status: dict[int, dict[str, type[GatewayError]]] = {}
    for error in _all_errors(GatewayError):
        if error.code in codes and error is not errors.ServerRefused:
            by_status.setdefault(error.status, {}).setdefault(error.code, error)
    refusals = {str(status): _refusal(status, by_status[status]) for status in sorted(by_status)}
    if _forwards(route):
        refusals["4XX"] = {
            "description": "What a server itself answered to the request: its own error where it has OpenAI's shape.",
            "content": {JSON: {"schema": ERROR_REFERENCE}},
        }
    return refusals


def _refusal(status: int, kinds: dict[str, type[GatewayError]]) -> dict[str, Any]:
    examples = {code: {"value": _error_example(kind)} for code, kind in kinds.items()}
    headers: dict[str, Any] = {"X-Request-ID": {"schema": {"type": "string"}}}
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
