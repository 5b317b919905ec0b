"""The OpenAPI document: valid, complete, true of what a gateway answers, and shown by two pages to a browser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from openapi_spec_validator import validate
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from multiverse.web.openapi import openapi_document
from multiverse.web.openapi_examples import REPLIES, REQUESTS
from multiverse.web.routes import ROUTES
from tests.clients import Response
from tests.conftest import StartGateway, StartPeer, Visit
from tests.processes import ADMIN_KEY, GatewayProcess

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
    shared = found.get("$ref", "").rpartition("/")[2]
    return dict(DOCUMENT["components"]["responses"][shared] if shared else found)


def judge_answer(path: str, method: str, answer: Response) -> None:
    """The answer's status, type and body are documented."""
    told = DOCUMENT["paths"][path][method.lower()]
    reply = reply_of(told, answer.status)
    kind = str(answer.header("Content-Type")).partition(";")[0]
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


@pytest.mark.parametrize("code", sorted(DOCUMENT["components"]["examples"]))
def test_examples_of_errors_are_errors(code: str) -> None:
    example = DOCUMENT["components"]["examples"][code]["value"]
    judge(DOCUMENT["components"]["schemas"]["Error"], example)
    assert example["error"]["code"] == code


def test_every_answer_has_a_schema_and_an_example() -> None:
    for path, method, told in OPERATIONS:
        for status, reply in told["responses"].items():
            content = reply.get("content", {}).get("application/json")
            if "$ref" in reply or content is None or path in FORWARDED or path == "/openapi.json":
                continue
            assert "$ref" in content["schema"], f"{method} {path} {status} has no schema"
            assert "example" in content, f"{method} {path} {status} has no example"
        if "requestBody" in told:
            assert "example" in told["requestBody"]["content"]["application/json"], f"{method} {path}"


FORWARDED = {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/{route}"}
# Asked in this order after all GETs; what is made here is removed here.
CHANGES: list[tuple[str, dict[str, Any] | None]] = [
    ("PUT /admin/register/{registration_id}", {"description": "new"}),
    ("POST /admin/servers/{registration_id}/probe", None),
    ("POST /admin/servers/{registration_id}/drain", None),
    ("POST /admin/servers/{registration_id}/pause", None),
    ("POST /admin/servers/{registration_id}/resume", None),
    ("PATCH /admin/servers/{registration_id}", {"daily_token_cap": 1000}),
    ("PATCH /admin/keys/{key_id}", {"weight": 2}),
    ("DELETE /admin/keys/{key_id}", None),
    ("DELETE /admin/claim-codes/{code_id}", None),
    ("DELETE /admin/aliases/{name}", None),
    ("POST /admin/mirror", {}),
    ("POST /session", {"key": ADMIN_KEY}),
    ("DELETE /session", None),
    ("DELETE /admin/register/{registration_id}", None),
]


def test_real_answers_are_documented(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    peer = start_peer()
    values = {"registration_id": gateway.register(peer, model), "model": model, "version": "0", "route": "rerank"}
    judged = {("GET", "/admin/events")}  # has no end

    def ask(operation: str, body: dict[str, Any] | None = None, **others: str) -> Response:
        method, path = operation.split()
        real = re.sub(r"\{(\w+)\}", lambda found: {**values, **others}[found[1]], path)
        answer = gateway.admin(method, real, body)
        assert answer.status < 300, (operation, answer.body)
        judge_answer(path, method, answer)
        judged.add((method, path))
        return answer

    for path in FORWARDED:
        asked = ask(f"POST {path}", {"model": model})
    values["key_id"] = ask("POST /admin/keys", {"name": "Ada"}).json()["key_id"]
    made = ask("POST /admin/claim-codes", {"uses": 2}).json()
    values["code_id"] = made["code_id"]
    claimed = ask("POST /claim", {"code": made["code"], "name": "Ben"}).json()
    (imported,) = ask("POST /admin/keys/import", {"csv": "Cem"}).json()["keys"]
    ask("PUT /admin/aliases/{name}", {"models": [model]}, name=f"{model}-alias")
    ask("POST /admin/probe", {"endpoint_url": peer.url})
    ask("POST /admin/lend", {"ports": [peer.port]})
    ask("POST /admin/register", {"model_name": model, "endpoint_url": peer.url})
    for path, method, _told in OPERATIONS:
        if method == "GET" and path != "/admin/events":
            request_id = str(asked.header("X-Request-ID")) if "/requests/" in path else model
            ask(f"GET {path}", id=request_id, name="docs.js" if path.startswith("/docs") else "icon.svg")
    for name, body in CHANGES:
        ask(name, body, name=f"{model}-alias")
    bearer = [("Authorization", f"Bearer {claimed['key']}")]
    thanked = gateway.call("PATCH", "/v1/account", b'{"on_thanks_board":true}', bearer)
    judge_answer("/v1/account", "PATCH", thanked)
    judged.add(("PATCH", "/v1/account"))
    nobody_there = gateway.admin("PUT", f"/admin/classroom/{values['registration_id']}", {"mood": "slow"})
    judge_answer("/admin/classroom/{registration_id}", "PUT", nobody_there)
    judged.add(("PUT", "/admin/classroom/{registration_id}"))
    for key in (claimed, imported):
        gateway.admin("DELETE", f"/admin/keys/{key['key_id']}")
    assert judged == {(method, path) for path, method, _told in OPERATIONS}


# Schemathesis' other checks take for a fault what a schema cannot say: that an address must resolve, or that a roster
# must have people on it.
CHECKS = [status_code_conformance, content_type_conformance, response_headers_conformance, response_schema_conformance]
ASKED = settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[*HealthCheck],
)
SCHEMATHESIS = [found.ok() for found in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()]
MODES = schemathesis.GenerationMode
ASKED_HOW = [
    (operation, mode)
    for operation in SCHEMATHESIS
    if operation.label not in ("GET /admin/events", "GET /admin/mirror")  # one has no end, the other takes its time
    for mode in ((MODES.POSITIVE, MODES.NEGATIVE) if operation.body or operation.query else (MODES.POSITIVE,))
]


def test_any_request_gets_a_documented_answer(start_gateway: StartGateway, subtests: pytest.Subtests) -> None:
    """What the document allows and what it forbids: never a fault of ours, never an undocumented answer."""
    gateway = start_gateway()  # For nobody else: keys, aliases and servers of all kinds come to be on it.
    assert {(operation.path, operation.method.upper()) for operation in SCHEMATHESIS} == {
        (path, method) for path, method, _told in OPERATIONS
    }
    statuses: Counter[int] = Counter()
    with requests.Session() as session:
        for operation, mode in ASKED_HOW:

            @ASKED
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: schemathesis.Case) -> None:
                # From behind a proxy that is not trusted: so that nobody's servers here are looked for, and lent.
                headers = {"X-API-Key": ADMIN_KEY, "X-Forwarded-For": "192.0.2.7"}
                answer = case.call(base_url=gateway.url, headers=headers, session=session)
                statuses[answer.status_code] += 1
                if answer.status_code >= 500:  # `require_healthy`, of a server that nobody has
                    assert answer.json()["error"]["code"] == "no_server_available", answer.text
                case.validate_response(answer, checks=CHECKS)

            with subtests.test(operation=operation.label, mode=mode.value):
                ask()
    assert {200, 400, 404} <= set(statuses), statuses


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
