"""`/metrics`: what is told, to whom, and that nothing clients send can make it grow."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from multiverse.histogram import Histogram
from multiverse.proxy.request_numbers import MOST_MODELS, OTHER, UNKNOWN_MODEL, RequestNumbers
from multiverse.proxy.stories import Story
from tests.bench import build_record
from tests.conftest import StartGateway, StartPeer
from tests.operations import Reset
from tests.peers import ScriptedPeer
from tests.processes import ADMIN_KEY, GatewayProcess
from tests.waiting import eventually
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


def test_verdicts_batches_and_ticks_are_counted(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    registration_id = gateway.register(peer, model, max_concurrency=3)
    labels = {"registration_id": registration_id, "gen_ai_request_model": model}
    peer.refuse()
    for _probe in range(3):
        gateway.admin("POST", f"/admin/servers/{registration_id}/probe")
    peer.listen()
    gateway.admin("POST", f"/admin/servers/{registration_id}/probe")
    before = samples(gateway)
    for verdict, count in (("unhealthy", 1), ("healthy", 2)):  # It was healthy from its registration on.
        key = tuple(sorted({**labels, "verdict": verdict}.items()))
        assert before[("multiverse_server_verdict_changes_total", key)] == count, verdict
    assert before[("multiverse_server_slots", tuple(sorted(labels.items())))] == 3
    for name in ("multiverse_store_batch_seconds", "multiverse_event_loop_tick_lag_seconds"):
        whole = (f"{name}_bucket", (("le", "+Inf"),))
        assert before[whole] == before[(f"{name}_count", ())]
        eventually(lambda name=name, whole=whole: samples(gateway)[whole] > before[whole], f"{name} goes on counting")
        assert samples(gateway)[(f"{name}_sum", ())] > 0


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
        numbers.note(Story(0.0), build_record(model_name=f"org/{number}", route=f"/v1/{number}"))
        numbers.note(Story(0.0), build_record(model_name=f"made-up-{number}"))
    for label in (UNKNOWN_MODEL, OTHER):
        numbers.note(Story(0.0), build_record(model_name=label))
    assert sum(numbers.requests.values()) == 2 * (MOST_MODELS + 50) + 2
    assert numbers.requests[UNKNOWN_MODEL, "/v1/chat/completions", "failed"] == MOST_MODELS + 52
    assert numbers.first_token == {}, "there is no histogram of what has not been measured"
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
