"""The OpenAPI document: valid, complete, true of what a gateway answers, and shown by two pages to a browser."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate

from multiverse.web.openapi import openapi_document
from multiverse.web.openapi_examples import REPLIES, REQUESTS
from multiverse.web.routes import ROUTES
from tests.clients import Response
from tests.conftest import StartPeer, Visit
from tests.processes import ADMIN_KEY, GatewayProcess
from tests.wire import chat_body

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = openapi_document(ROUTES)
OPERATIONS = [(path, method.upper(), told) for path, item in DOCUMENT["paths"].items() for method, told in item.items()]
OPERATIONS = [operation for operation in OPERATIONS if operation[1] != "PARAMETERS"]
WITH_EXAMPLES = [
    pytest.param(content["schema"], content["example"], id=f"{method} {path} {status}")
    for path, method, told in OPERATIONS
    for status, reply in told["responses"].items()
    for content in reply.get("content", {}).values()
    if "example" in content
]


def judge(schema: dict[str, Any], value: object) -> None:
    """Raises ValidationError when `value` is not what the document says."""
    whole = {**schema, "components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(whole).validate(value)


def reply_of(told: dict[str, Any], status: int) -> dict[str, Any]:
    """What the document says about this status; AssertionError when it is silent."""
    replies = told["responses"]
    found = replies.get(str(status)) or replies.get(f"{status // 100}XX")
    assert found is not None, f"{told['operationId']} may not answer {status}"
    return dict(found)


def judge_answer(path: str, method: str, answer: Response) -> None:
    """The answer's status, type and body are documented."""
    told = DOCUMENT["paths"][path][method.lower()]
    reply = reply_of(told, answer.status)
    kind = answer.header("Content-Type").partition(";")[0]
    assert kind in reply["content"], f"{told['operationId']} may not answer {answer.status} with {kind}"
    if kind == "application/json":
        judge(reply["content"][kind]["schema"], answer.json())


def test_it_is_valid_and_served(gateway: GatewayProcess) -> None:
    answer = gateway.call("GET", "/openapi.json")
    assert answer.header("Content-Type") == "application/json"
    assert answer.json() == DOCUMENT
    validate(answer.json())
    etag = answer.header("ETag")
    again = gateway.call("GET", "/openapi.json", headers=[("If-None-Match", etag)])
    assert (again.status, again.body) == (304, b"")


def test_it_has_every_route_method_and_field() -> None:
    assert {(path, method) for path, method, _ in OPERATIONS} == {
        (route.shown, method) for route in ROUTES for method in route.methods
    }
    for route in ROUTES:
        if route.request_schema is None:
            continue
        name = route.request_schema.__name__.removesuffix("Schema")
        assert set(DOCUMENT["components"]["schemas"][name]["properties"]) == set(route.request_schema().fields)
    identifiers = [told["operationId"] for _path, _method, told in OPERATIONS]
    assert len(identifiers) == len(set(identifiers))


def test_nothing_is_shown_for_routes_that_do_not_exist() -> None:
    known = {f"{method} {route.shown}" for route in ROUTES for method in route.methods}
    assert set(REPLIES) | set(REQUESTS) <= known


@pytest.mark.parametrize(("schema", "example"), WITH_EXAMPLES)
def test_examples_are_what_they_illustrate(schema: dict[str, Any], example: object) -> None:
    judge(schema, example)


@pytest.mark.parametrize("name", sorted(REQUESTS))
def test_examples_of_requests_are_requests(name: str) -> None:
    method, path = name.split()
    body = DOCUMENT["paths"][path][method.lower()]["requestBody"]["content"]["application/json"]
    judge(body["schema"], body["example"])


def test_real_answers_are_documented(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    registration_id = gateway.register(start_peer(), model)
    values = {"{registration_id}": registration_id, "{id}": model, "{name}": "docs.js"}
    asked = gateway.call("POST", "/v1/chat/completions", chat_body(model))
    judge_answer("/v1/chat/completions", "POST", asked)
    for path, method, _told in OPERATIONS:
        if method != "GET" or f"GET {path}" not in REPLIES:
            continue
        real = path
        if path.startswith("/v1/requests/"):
            real = f"/v1/requests/{asked.header('X-Request-ID')}"
        for name, value in values.items():
            real = real.replace(name, value)
        answer = gateway.admin("GET", real)
        assert answer.status == 200, real
        judge_answer(path, "GET", answer)
    for action in ("probe", "drain", "resume"):
        answer = gateway.admin("POST", f"/admin/servers/{registration_id}/{action}")
        judge_answer(f"/admin/servers/{{registration_id}}/{action}", "POST", answer)
    changed = gateway.admin("PUT", f"/admin/register/{registration_id}", {"description": "new"})
    judge_answer("/admin/register/{registration_id}", "PUT", changed)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**40) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner, max_size=2),
    max_leaves=4,
)


def any_body(fields: list[str]) -> st.SearchStrategy[Any]:
    """Bodies that are often near the mark: objects with known fields and any values."""
    return st.dictionaries(st.sampled_from(fields), ANY_JSON, max_size=5) | ANY_JSON


def is_described(operation: tuple[str, str, Any]) -> bool:
    """Whether the document shows more than that there is an answer."""
    return f"{operation[1]} {operation[0]}" in REPLIES


WRITING = [(path, method) for path, method, told in OPERATIONS if "requestBody" in told]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_request_gets_a_documented_answer(gateway: GatewayProcess, data: st.DataObject) -> None:
    """What schemathesis would ask: bodies and queries of all kinds, never a 500, never an undocumented answer."""
    path, method, told = data.draw(st.sampled_from([known for known in OPERATIONS if is_described(known)]))
    real = path.replace("{route}", "rerank").replace("{registration_id}", "none").replace("{id}", "none")
    real = real.replace("{name}", data.draw(st.sampled_from(["docs.js", "none.js", "docs.html"])))
    if method == "GET" and (query := told.get("parameters")):
        name = data.draw(st.sampled_from([parameter["name"] for parameter in query]))
        real += f"?{name}={data.draw(st.sampled_from(['1', '0', '-1', 'healthy', '%FF', '', 'x' * 300]))}"
    body = None
    if (path, method) in WRITING:
        schema = told["requestBody"]["content"]["application/json"]["schema"]
        fields = list(DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["properties"])
        body = json.dumps(data.draw(any_body(fields))).encode()
    headers = [("Content-Type", data.draw(st.sampled_from(["application/json", "text/plain"])))] if body else []
    key = data.draw(st.sampled_from([ADMIN_KEY, ADMIN_KEY, ""]))
    if key:
        headers.append(("X-API-Key", key))
    answer = gateway.call(method, real, body, headers)
    assert answer.status < 500 or answer.json()["error"]["code"] == "no_server_available"
    judge_answer(path, method, answer)


@pytest.mark.parametrize(("path", "shown"), [("/docs", ".opblock-summary-path"), ("/redoc", "h2")])
def test_pages_show_it_and_load_nothing_from_elsewhere(
    gateway: GatewayProcess, visit: Visit, path: str, shown: str
) -> None:
    visitor = visit(gateway)
    # ReDoc's own logo is on a CDN: the policy forbids it, and ReDoc then shows none.
    visitor.expect("cdn.redoc.ly")
    page = visitor.open(path)
    page.wait_for_selector(shown, timeout=15_000)
    assert "/admin/register" in page.content()


def test_vendored_files_are_those_of_the_registry() -> None:
    check = [sys.executable, str(ROOT / "scripts" / "vendor_assets.py"), "--check"]
    ran = subprocess.run(check, capture_output=True, text=True, timeout=30, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    listed = json.loads((ROOT / "scripts" / "vendored.json").read_text(encoding="utf-8"))["assets"]
    vendored = {path.relative_to(ROOT).as_posix() for path in (ROOT / "multiverse").glob("**/vendor/*")}
    assert vendored <= {asset["path"] for asset in listed}
