"""Names that stand for models: who answers, what stands in when nobody can, and what is said of it."""

from __future__ import annotations

import re

import pytest

from tests import wire
from tests.answers import assert_error
from tests.clients import Response
from tests.conftest import StartGateway, StartPeer
from tests.operations import AnswerChat, Hold
from tests.peers import ScriptedPeer
from tests.processes import GatewayProcess
from tests.test_keyring import Headers, bearer, make_key, run


def stands_for(gateway: GatewayProcess, name: str, *models: str) -> Response:
    return gateway.admin("PUT", f"/admin/aliases/{name}", {"models": list(models)})


def offered(gateway: GatewayProcess, headers: Headers) -> dict[str, str | None]:
    """What the key is told that it may ask, and what each name stands for."""
    listed = gateway.call("GET", "/v1/models", None, headers).json()["data"]
    return {record["id"]: record.get("alias_of") for record in listed}


def test_an_alias_is_asked_like_a_model(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    alias = f"{model}-alias"
    assert stands_for(gateway, alias, model).json()["models"] == [model]
    for stream in (None, True):
        answer = gateway.chat(alias, stream)
        assert (answer.status, answer.header("X-Gateway-Model")) == (200, model)
        assert peer.requests[-1].json()["model"] == model, "the server never hears of it"
    assert gateway.chat(model).header("X-Gateway-Model") is None, "who asks for a model gets that model"
    offers = {offer["id"]: offer for offer in gateway.call("GET", "/v1/models").json()["data"]}
    assert (offers[alias]["alias_of"], offers[alias]["healthy_servers"], offers[alias]["object"]) == (model, 1, "model")
    assert "alias_of" not in offers[model]
    assert gateway.call("GET", f"/v1/models/{alias}").json() == offers[alias]
    usage = gateway.admin("GET", f"/admin/usage?group_by=model&model_name={model}").json()
    assert usage["rows"][0]["requests"] == 3, "usage is the model's"
    assert gateway.admin("DELETE", f"/admin/aliases/{alias}").status == 200
    assert_error(gateway.chat(alias), "model_not_found", "model")


def test_a_stand_in_answers_when_nobody_else_can(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    first, second = start_peer(), start_peer()
    other = f"{model}-b"
    server = gateway.register(first, model)
    gateway.register(second, other)
    stands_for(gateway, model, model, other)
    assert gateway.chat(model).header("X-Gateway-Model") == model
    gateway.admin("POST", f"/admin/servers/{server}/drain")
    answer = gateway.chat(model, True)
    assert (answer.status, answer.header("X-Gateway-Model")) == (200, other)
    assert gateway.call("GET", f"/v1/models/{model}").json()["alias_of"] == other
    gateway.admin("POST", f"/admin/servers/{server}/resume")
    first.inference.queue(wire.error_answer(500, "no"))
    failed_over = gateway.chat(model)
    assert (failed_over.header("X-Gateway-Model"), failed_over.header("X-Gateway-Attempts")) == (other, "2")
    first.inference.queue(wire.error_answer(400, "your fault"))
    assert gateway.chat(model).status == 400, "a mistake of the client's is not tried elsewhere"
    gateway.admin("DELETE", f"/admin/register/{server}")
    assert gateway.chat(model).header("X-Gateway-Model") == other
    assert gateway.call("GET", f"/v1/models/{model}").json()["alias_of"] == other
    gateway.admin("DELETE", f"/admin/aliases/{model}")


def test_a_stand_in_goes_before_servers_that_are_down(
    gateway: GatewayProcess, start_peer: StartPeer, model: str
) -> None:
    asleep, awake = [start_peer() for _number in range(3)], start_peer()
    registered = [gateway.register(peer, model) for peer in asleep]
    other = gateway.register(awake, f"{model}-b")
    stands_for(gateway, model, model, f"{model}-b")
    for server, peer in zip(registered, asleep, strict=True):
        peer.refuse()
        for _probe in range(3):
            gateway.admin("POST", f"/admin/servers/{server}/probe")
        peer.listen()  # It may be, or may swallow whatever is sent.
        peer.inference.always(Hold())
    answer = gateway.chat(model)
    assert (answer.header("X-Gateway-Model"), answer.header("X-Gateway-Attempts")) == (f"{model}-b", "1")
    gateway.admin("POST", f"/admin/servers/{other}/drain")
    for peer in asleep:
        peer.inference.always(AnswerChat())
    answer = gateway.chat(model)
    assert (answer.status, answer.header("X-Gateway-Model")) == (200, model), "but that is better than nothing"
    gateway.admin("DELETE", f"/admin/aliases/{model}")


def test_when_nobody_stands_in(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    stands_for(gateway, f"{model}-alias", f"{model}-x", f"{model}-y")
    assert_error(gateway.chat(f"{model}-alias"), "model_not_found", "model")
    gateway.register(peer, f"{model}-y")
    peer.inference.queue(wire.error_answer(500, "no"))
    assert_error(gateway.chat(f"{model}-alias"), "server_error")
    gateway.admin("DELETE", f"/admin/aliases/{model}-alias")


def test_a_full_queue_is_no_dead_end(start_gateway: StartGateway, start_peer: StartPeer, model: str) -> None:
    gateway = start_gateway(QUEUE_SIZE=0, HEALTH_CHECK_INTERVAL_SECONDS=300)
    first, second = start_peer(), start_peer()
    gateway.register(first, model, max_concurrency=1)
    gateway.register(second, f"{model}-b")
    stands_for(gateway, model, model, f"{model}-b")
    first.inference.always(wire.STREAM_HEAD, wire.chunk(wire.chat_chunk("x")), *[wire.chunk(b": wait\n\n")])
    with gateway.stream(model) as stream:
        stream.read_events(1)
        assert gateway.chat(model).header("X-Gateway-Model") == f"{model}-b"


@pytest.mark.parametrize("models", [[], "llama", ["a b"], ["{name}"], ["{alias}"]])
def test_what_leads_nowhere(gateway: GatewayProcess, model: str, models: object) -> None:
    stands_for(gateway, f"{model}-alias", "real")
    names = {"{name}": model, "{alias}": f"{model}-alias"}
    given = [names.get(name, name) for name in models] if isinstance(models, list) else models
    refused = gateway.admin("PUT", f"/admin/aliases/{model}", {"models": given})
    assert_error(refused, "invalid_request", "models")
    assert_error(gateway.admin("DELETE", f"/admin/aliases/{model}"), "model_not_found")
    gateway.admin("DELETE", f"/admin/aliases/{model}-alias")


def test_a_key_for_some_models(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    first, second = start_peer(), start_peer()
    gateway.register(first, model)
    gateway.register(second, f"{model}-b")
    stands_for(gateway, f"{model}-alias", model, f"{model}-b")
    only_b = bearer(make_key(gateway, models=[f"{model}-b"])[1])
    assert gateway.chat(f"{model}-alias", headers=only_b).header("X-Gateway-Model") == f"{model}-b"
    assert_error(gateway.chat(model, headers=only_b), "permission_denied", "model")
    assert offered(gateway, only_b) == {f"{model}-b": None, f"{model}-alias": f"{model}-b"}
    by_alias = bearer(make_key(gateway, models=[f"{model}-alias"])[1])
    assert offered(gateway, by_alias) == {f"{model}-alias": model}
    assert gateway.chat(f"{model}-alias", headers=by_alias).header("X-Gateway-Model") == model
    assert_error(gateway.chat(model, headers=by_alias), "permission_denied", "model")
    stands_for(gateway, model, f"{model}-b", model)
    gateway.deregister_all()
    gateway.register(first, model)
    assert offered(gateway, only_b) == {}, "what they may not ask answers nothing for them, under whatever name"
    gateway.admin("DELETE", f"/admin/aliases/{model}")
    gateway.admin("DELETE", f"/admin/aliases/{model}-alias")


def suggested(gateway: GatewayProcess, name: str, headers: Headers) -> set[str]:
    """What somebody is pointed to who asks for `name`, which nobody offers: to ask it, and to look it up."""
    answers = gateway.chat(name, headers=headers), gateway.call("GET", f"/v1/models/{name}", None, headers)
    for answer in answers:
        assert_error(answer, "model_not_found", "model")
    asked, looked_up = (set(re.findall("'(.+?)'", answer.error["message"].partition("Did")[2])) for answer in answers)
    assert asked == looked_up
    return asked


def test_close_names_are_those_that_one_may_ask(gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    first, second, unknown, alias = model, f"{model}-b", f"{model}-c", f"{model}-alias"
    for name in (first, second):
        registration_id = gateway.register(start_peer(), name)
    stands_for(gateway, alias, first)
    anybody = [bearer(make_key(gateway)[1]), []]
    assert all({alias, first, second} == suggested(gateway, unknown, headers) for headers in anybody)
    for models, near in (([second], {second}), ([alias], {alias}), ([first], {first, alias}), ([], set())):
        only = bearer(make_key(gateway, models=[unknown, f"{alias}-x", *models])[1])
        assert suggested(gateway, unknown, only) == near
        stands_for(gateway, f"{alias}-x", f"{model}-nobody")
        assert suggested(gateway, f"{alias}-x", only) == near, "nor by a name that stands for nothing here"
        gateway.admin("DELETE", f"/admin/aliases/{alias}-x")
    gateway.admin("PATCH", f"/admin/servers/{registration_id}", {"offered_to": "me"})
    assert all({alias, first} == suggested(gateway, unknown, headers) for headers in anybody)
    gateway.admin("DELETE", f"/admin/aliases/{alias}")


def test_they_outlive_a_restart_and_the_commands(start_gateway: StartGateway, peer: ScriptedPeer) -> None:
    gateway = start_gateway()
    gateway.register(peer, "org/model")
    peer.inference.always(AnswerChat())
    assert "stands for org/model, then other" in run(gateway, "aliases", "set", "a/b", "org/model", "other")[0]
    gateway.stop()
    gateway.start()
    assert "a/b" in run(gateway, "aliases", "list")[0]
    assert gateway.call("GET", "/v1/models/a%2Fb").status in (200, 404)
    assert "removed" in run(gateway, "aliases", "remove", "a/b")[0]
    assert gateway.admin("GET", "/admin/aliases").json() == {"aliases": [], "total": 0}
