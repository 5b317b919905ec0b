"""`/metrics` and the stories of requests: what is told, to whom, and that nothing clients send can make it grow."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import tornado.httpclient
import tornado.netutil
from prometheus_client.parser import text_string_to_metric_families

from multiverse.config import load_config
from multiverse.gateway import Gateway
from multiverse.proxy.request_numbers import MOST_MODELS, OTHER, UNKNOWN_MODEL, Histogram, RequestNumbers
from multiverse.proxy.stories import FAILED_KEPT_SECONDS, Stories
from multiverse.web.app import make_server
from multiverse.web.front.door import FrontDoor
from tests.bench import HandClock, build_record
from tests.conftest import StartGateway, StartPeer
from tests.operations import Reset
from tests.processes import ADMIN_KEY, GatewayProcess
from tests.wire import chat_body

DOCS = Path(__file__).resolve().parent.parent / "docs"


def samples(gateway: GatewayProcess) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = gateway.call("GET", "/metrics")
    assert answer.status == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def of_model(found: dict[tuple[str, tuple[tuple[str, str], ...]], float], name: str, model: str) -> float:
    """The sum of one metric over everything but the model."""
    label = ("gen_ai_request_model", model)
    return sum(value for (known, labels), value in found.items() if known == name and label in labels)


# -- metrics


def test_requests_are_counted_at_their_end(start_gateway: StartGateway, start_peer: StartPeer, model: str) -> None:
    gateway = start_gateway(HEALTH_CHECK_INTERVAL_SECONDS=300)  # a shared one may have its most models already
    first, second = start_peer(), start_peer()
    registered = [gateway.register(peer, model) for peer in (first, second)]
    first.always(Reset())
    for _number in range(3):
        assert gateway.call("POST", "/v1/chat/completions", chat_body(model)).status == 200
    assert gateway.call("POST", "/v1/chat/completions", chat_body("nobody/has-this")).status == 404
    found = samples(gateway)
    assert of_model(found, "multiverse_requests_total", model) == 3
    assert of_model(found, "multiverse_requests_total", UNKNOWN_MODEL) >= 1
    assert of_model(found, "multiverse_requests_total", "nobody/has-this") == 0
    assert of_model(found, "gen_ai_server_request_duration_seconds_count", model) == 3
    assert of_model(found, "multiverse_attempts_total", model) > 3
    assert found[("multiverse_failovers_total", (("reason", "server_error"),))] >= 1
    shown = {dict(labels).get("registration_id") for name, labels in found if name == "multiverse_server_healthy"}
    assert set(registered) <= shown
    assert found[("multiverse_requests_in_flight", ())] == 0


def test_a_token_can_be_asked_for(start_gateway: StartGateway) -> None:
    gateway = start_gateway(METRICS_TOKEN="only-for-prometheus")
    for header in ((), [("Authorization", "Bearer wrong")], [("X-API-Key", ADMIN_KEY)]):
        assert gateway.call("GET", "/metrics", headers=header).status == 401
    right = gateway.call("GET", "/metrics", headers=[("Authorization", "Bearer only-for-prometheus")])
    assert right.status == 200
    assert right.header("Content-Type").startswith("text/plain; version=0.0.4")


def test_what_clients_send_does_not_make_it_grow() -> None:
    numbers = RequestNumbers(is_registered=lambda name: name.startswith("org/"))
    for number in range(MOST_MODELS + 50):
        numbers.note(build_record(model_name=f"org/{number}", route=f"/v1/{number}"), None)
        numbers.note(build_record(model_name=f"made-up-{number}"), None)
    models = {model for model, _route, _outcome in numbers.requests}
    assert len(models) == MOST_MODELS + 2
    assert {UNKNOWN_MODEL, OTHER} <= models
    assert {route for _model, route, _outcome in numbers.requests} == {OTHER, "/v1/chat/completions"}


def test_histograms_count_up() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.1, 0.5, 7.0):
        histogram.note(value)
    assert histogram.cumulative() == [("0.1", 1), ("1.0", 2), ("+Inf", 3)]
    assert histogram.total == pytest.approx(7.6)


def names_used(text: str) -> set[str]:
    return set(re.findall(r"\b(?:multiverse|gen_ai_server)_[a-z_]+\b", text))


def told_names(gateway: GatewayProcess) -> set[str]:
    """Every name that a query may use, also of metrics that have no sample yet."""
    text = gateway.call("GET", "/metrics").body.decode()
    typed = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    histograms = {name + suffix for name, kind in typed.items() if kind == "histogram" for suffix in ("_bucket",)}
    return set(typed) | histograms


def test_dashboard_alerts_and_documents_use_what_there_is(gateway: GatewayProcess) -> None:
    known = told_names(gateway)
    dashboard = json.loads((DOCS / "grafana-dashboard.json").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert queries
    assert names_used("\n".join(queries)) <= known
    rules = (DOCS / "alert-rules.yml").read_text(encoding="utf-8")
    alerts = re.findall(r"^ +expr: (.+)$", rules, re.MULTILINE)
    assert len(alerts) == rules.count("- alert:")
    assert names_used("\n".join(alerts)) <= known
    table = re.findall(r"^\| `(\w+)` \|", (DOCS / "metrics.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(table) == {name for name in known if not name.endswith("_bucket")}


# -- stories


def test_a_story_tells_what_happened_in_order(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    bad, good = start_peer(), start_peer()
    bad_id, good_id = gateway.register(bad, model), gateway.register(good, model)
    bad.always(Reset())
    stories = []
    for number in range(2):
        headers = [("X-Request-ID", f"{number}-of-{model}")]
        answer = gateway.call("POST", "/v1/chat/completions", chat_body(model), headers)
        assert answer.status == 200
        stories.append(gateway.call("GET", f"/v1/requests/{number}-of-{model}").json())
    (story,) = [story for story in stories if story["attempts"] == 2]
    told = [(event["event"], event.get("server")) for event in story["events"]]
    assert told == [
        ("admitted", None),
        ("tried", bad_id),
        ("failed", bad_id),
        ("tried", good_id),
        ("first_token", None),
        ("ended", None),
    ]
    assert story["events"][2]["code"] == "server_error"
    assert "reason" not in story["events"][2], "reasons are for owners and admins"
    assert gateway.admin("GET", f"/v1/requests/{story['request_id']}").json()["events"][2]["reason"]


def test_stories_are_told_to_their_own(start_gateway: StartGateway, start_peer: StartPeer, model: str) -> None:
    gateway = start_gateway(CLIENT_API_KEYS="key-of-ada,key-of-bob")
    gateway.register(start_peer(), model)
    keys = {name: [("Authorization", f"Bearer key-of-{name}")] for name in ("ada", "bob")}
    sent = gateway.call("POST", "/v1/chat/completions", chat_body(model), keys["ada"])
    path = f"/v1/requests/{sent.header('X-Request-ID')}"
    assert gateway.call("GET", path, headers=keys["ada"]).status == 200
    assert gateway.call("GET", path, headers=keys["bob"]).status == 404
    assert gateway.call("GET", path).status == 404
    assert gateway.admin("GET", path).status == 200
    assert gateway.call("GET", "/v1/requests/never-was").status == 404


async def test_who_may_not_have_another_one_under_way_begins_no_story(tmp_path: Path) -> None:
    environ = {"ADMIN_API_KEY": ADMIN_KEY, "DATABASE_URL": f"sqlite:///{tmp_path}/gateway.db"}
    environ |= {"RATE_LIMIT_ENABLED": "true", "RATE_LIMIT_REQUESTS_AT_ONCE": "1"}
    async with Gateway(load_config(environ, dotenv_path=None)) as gateway:
        gateway.allowances.enter("address:127.0.0.1", None)
        server = make_server(gateway)
        assert isinstance(server, FrontDoor)
        (listener,) = tornado.netutil.bind_sockets(0, "127.0.0.1")
        await server.accept_on([listener])
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/chat/completions"
        asked = {
            "method": "POST",
            "body": chat_body("any"),
            "headers": {"Content-Type": "application/json"},
            "raise_error": False,
        }
        answer = await tornado.httpclient.AsyncHTTPClient().fetch(url, **asked)  # type: ignore[arg-type]
        server.stop()
        await server.close_all_connections()
        listener.close()
        assert answer.code == 429
        assert gateway.stories.under_way == 0, "what never ends would stay in memory for ever"


def test_stories_are_forgotten() -> None:
    clock = HandClock()
    stories = Stories(clock=clock)
    for number in range(2_100):
        stories.begin(f"good-{number}")
        stories.end(build_record(request_id=f"good-{number}", outcome="ok"))
    stories.begin("bad")
    stories.end(build_record(request_id="bad"))
    assert stories.find("good-99") is None
    assert stories.find("good-100") is not None
    assert stories.find("bad") is not None
    clock.pass_time(FAILED_KEPT_SECONDS + 1)
    assert stories.find("bad") is None
