"""One server: its verdict, its ejections, and what it says about itself. Time is moved by hand."""

from __future__ import annotations

import json

import pytest

from multiverse.servers.record import record_of, restore, state_row
from multiverse.servers.server import HEALTHY, UNHEALTHY, UNKNOWN, Blame, BreakerSettings, Server
from multiverse.storage.rows import STATE_COLUMNS
from tests.bench import BOOM, BREAKER, CREATED_AT, MODEL, HandClock, begin, build_server, fail, succeed

EJECT = BREAKER.eject_seconds
NO_ANSWER = "the server did not answer"


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def server(clock: HandClock) -> Server:
    """Healthy, and nothing has happened to it."""
    return build_server(clock)


def breaker(max_failures: int = 3, successes_to_recover: int = 1) -> BreakerSettings:
    return BreakerSettings(max_failures, successes_to_recover, EJECT, BREAKER.eject_max_seconds)


# -- the verdict


def test_a_new_server_is_unknown_and_takes_nothing(clock: HandClock) -> None:
    server = build_server(clock, healthy=False)
    assert (server.health_status, server.availability, server.available) == (UNKNOWN, "unknown", False)
    assert not server.may_be_last_resort, "nobody has asked it yet"


@pytest.mark.parametrize("successes_to_recover", [1, 3])
def test_the_first_good_probe_is_enough(clock: HandClock, successes_to_recover: int) -> None:
    server = build_server(clock, healthy=False, breaker=breaker(successes_to_recover=successes_to_recover))
    assert server.note_good_probe(), "that is news"
    assert (server.health_status, server.available) == (HEALTHY, True)
    assert not server.note_good_probe(), "the second one is not"


@pytest.mark.parametrize("max_failures", [1, 5])
def test_a_failed_first_probe_is_unhealthy_at_once(clock: HandClock, max_failures: int) -> None:
    server = build_server(clock, healthy=False, breaker=breaker(max_failures))
    assert server.note_failed_probe(NO_ANSWER)
    assert (server.health_status, server.available, server.reason) == (UNHEALTHY, False, NO_ANSWER)


@pytest.mark.parametrize("max_failures", [1, 2, 3, 7])
def test_it_falls_exactly_at_the_threshold(clock: HandClock, max_failures: int) -> None:
    server = build_server(clock, breaker=breaker(max_failures))
    changed = [server.note_failed_probe(NO_ANSWER) for _number in range(max_failures + 2)]
    assert changed == [number == max_failures for number in range(1, max_failures + 3)]
    assert server.consecutive_failures == max_failures + 2


def test_failed_probes_must_be_in_a_row(server: Server) -> None:
    for _round in range(3):
        assert [server.note_failed_probe(NO_ANSWER) for _number in range(2)] == [False, False]
        assert not server.note_good_probe()
    assert (server.health_status, server.consecutive_failures) == (HEALTHY, 0)


@pytest.mark.parametrize("successes_to_recover", [1, 2, 4])
def test_it_rises_exactly_at_the_threshold(clock: HandClock, successes_to_recover: int) -> None:
    server = build_server(clock, healthy=False, breaker=breaker(successes_to_recover=successes_to_recover))
    server.note_failed_probe(NO_ANSWER)
    for _number in range(successes_to_recover - 1):
        assert not server.note_good_probe()
        assert server.health_status == UNHEALTHY
    assert server.note_good_probe()
    assert (server.health_status, server.reason) == (HEALTHY, None)


def test_good_probes_must_be_in_a_row_to_recover(clock: HandClock) -> None:
    server = build_server(clock, healthy=False, breaker=breaker(successes_to_recover=2))
    server.note_failed_probe(NO_ANSWER)
    for _round in range(3):
        server.note_good_probe()
        server.note_failed_probe(NO_ANSWER)
    assert server.health_status == UNHEALTHY
    assert [server.note_good_probe(), server.note_good_probe()] == [False, True]


def test_loading_is_neither_good_nor_bad(server: Server) -> None:
    assert server.note_loading()
    assert not server.note_loading(), "no news"
    assert (server.health_status, server.availability, server.available) == (HEALTHY, "loading", False)
    assert server.consecutive_failures == 0
    assert not server.may_be_last_resort
    assert server.note_good_probe(), "it has loaded: that is news although the verdict was healthy"
    assert server.available


def test_bytes_on_a_request_keep_a_healthy_server_healthy(server: Server) -> None:
    for _number in range(5):
        server.note_failed_probe(NO_ANSWER)
        server.note_failed_probe(NO_ANSWER)
        server.note_alive()
    assert server.health_status == HEALTHY


def test_bytes_on_a_request_do_not_make_an_unhealthy_server_healthy(clock: HandClock) -> None:
    server = build_server(clock, healthy=False)
    server.note_failed_probe(NO_ANSWER)
    server.note_alive()
    assert (server.health_status, server.consecutive_failures) == (UNHEALTHY, 1)


def test_probes_and_requests_are_counted_apart(server: Server) -> None:
    server.note_failed_probe(NO_ANSWER)
    server.note_failed_probe(NO_ANSWER)
    assert fail(server) == [False]
    assert (server.health_status, server.ejected) == (HEALTHY, False), "two and one make neither three nor three"
    assert server.consecutive_failures == 2, "the larger"
    fail(server, 2)
    assert server.ejected
    assert server.health_status == HEALTHY, "the verdict belongs to the probes"
    assert server.consecutive_failures == 3
    server.note_good_probe()
    assert server.consecutive_failures == 3, "and the requests stay counted"


# -- ejection


@pytest.mark.parametrize("max_failures", [1, 2, 3, 6])
def test_failures_in_a_row_eject(clock: HandClock, max_failures: int) -> None:
    server = build_server(clock, breaker=breaker(max_failures))
    fail(server, max_failures - 1)
    succeed(server)
    assert fail(server, max_failures) == [False] * (max_failures - 1) + [True], "a success begins the count again"
    assert (server.ejected, server.available, server.availability) == (True, False, "ejected")
    assert server.may_be_last_resort
    assert server.reason == BOOM


def test_ends_without_blame_neither_count_nor_clear(server: Server) -> None:
    fail(server, 2)
    begin(server).end(Blame.NONE)
    assert fail(server) == [True]


def test_an_ejection_lasts_as_long_as_set(server: Server, clock: HandClock) -> None:
    fail(server, 3)
    assert server.seconds_to_trial == EJECT
    clock.pass_time(EJECT - 0.001)
    assert not server.available
    clock.pass_time(0.001)
    assert server.available
    assert server.availability == "ejected", "until the trial has decided"
    assert server.seconds_to_trial == 0


def test_ejections_double_up_to_the_maximum_and_start_over_after_a_success(server: Server, clock: HandClock) -> None:
    fail(server, 3)
    waits = []
    for _number in range(40):
        seconds = server.seconds_to_trial
        assert seconds is not None
        waits.append(seconds)
        clock.pass_time(seconds)
        assert fail(server) == [True], "a failed trial ejects at once"
    assert waits == [10.0, 20.0] + [35.0] * 38
    clock.pass_time(35)
    succeed(server)
    assert (server.available, server.availability, server.consecutive_failures) == (True, "available", 0)
    assert server.reason is None
    fail(server, 3)
    assert server.seconds_to_trial == EJECT


def test_exactly_one_trial_among_many(server: Server, clock: HandClock) -> None:
    fail(server, 3)
    clock.pass_time(EJECT)
    trial = begin(server)
    assert not server.available, "the one trial is under way"
    assert server.seconds_to_trial is None, "and there is no moment to wait for"
    clock.pass_time(1000)
    assert not server.available, "for as long as it takes"
    trial.end(Blame.SUCCESS)
    assert server.available
    assert [begin(server).ended for _number in range(3)] == [False] * 3
    assert server.available, "as many as come"


@pytest.mark.parametrize("blame", [Blame.NONE, Blame.FAILURE])
def test_a_trial_that_does_not_succeed_leaves_room_for_the_next_one(
    server: Server, clock: HandClock, blame: Blame
) -> None:
    fail(server, 3)
    clock.pass_time(EJECT)
    for _number in range(4):
        assert server.available
        begin(server).end(blame, BOOM)
        clock.pass_time(server.seconds_to_trial or 0.0)
    assert server.available, "the flag is never stuck"


def test_the_trials_first_content_ends_the_ejection_but_not_the_count(server: Server, clock: HandClock) -> None:
    fail(server, 3)
    clock.pass_time(EJECT)
    trial = begin(server)  # a stream of five minutes
    assert (trial.content_came(), server.available, server.availability) == (True, True, "available")
    assert not trial.content_came(), "once is enough"
    clock.pass_time(300)
    assert server.available
    trial.end(Blame.FAILURE, BOOM)
    assert server.seconds_to_trial == 2 * EJECT, "it broke off: out for longer"
    clock.pass_time(2 * EJECT)
    trial = begin(server)
    trial.content_came()
    trial.end(Blame.SUCCESS)
    assert fail(server) == [False], "only its success makes it start over"


def test_content_of_before_the_ejection_does_not_end_it(server: Server) -> None:
    old = begin(server)
    fail(server, 3)
    assert not old.content_came()
    assert server.ejected
    last_resort = begin(server)
    assert (old.while_ejected, last_resort.while_ejected) == (False, True)
    last_resort.end(Blame.NONE)
    assert not last_resort.content_came(), "it is over"
    last_resort = begin(server)
    server.forget_health()
    assert not last_resort.content_came(), "that was another address"


def test_an_old_trial_cannot_release_a_new_one(server: Server, clock: HandClock) -> None:
    fail(server, 3)
    clock.pass_time(EJECT)
    old_trial = begin(server)
    fail(server)  # a last resort request fails while the trial is under way: ejected again
    clock.pass_time(2 * EJECT)
    assert server.available, "the old trial does not hold up the new ejection's"
    begin(server)
    old_trial.end(Blame.NONE)
    assert not server.available, "the new trial is still the only one"


def test_a_trial_that_never_ends_does_not_lock_the_server_out(server: Server, clock: HandClock) -> None:
    fail(server, 3)
    clock.pass_time(EJECT)
    begin(server)  # a stream that goes on for an hour
    succeed(server)  # meanwhile a last resort request is answered
    assert server.available
    fail(server, 3)
    clock.pass_time(EJECT)
    assert server.available, "a new ejection, a new trial"


def test_failures_under_way_at_the_ejection_do_not_double_it(server: Server, clock: HandClock) -> None:
    under_way = [begin(server) for _number in range(8)]
    assert [attempt.end(Blame.FAILURE, BOOM) for attempt in under_way[:5]] == [False, False, True, False, False]
    assert server.seconds_to_trial == EJECT
    clock.pass_time(EJECT + 1)  # the others take longer than the whole ejection
    assert [attempt.end(Blame.FAILURE, BOOM) for attempt in under_way[5:]] == [False] * 3
    assert server.available, "the trial is due, and not one ejection later"
    assert fail(server) == [True]
    assert server.seconds_to_trial == 2 * EJECT, "doubled once"


def test_a_success_under_way_at_the_ejection_does_not_end_it(server: Server) -> None:
    old = begin(server)
    fail(server, 3)
    old.end(Blame.SUCCESS)
    assert server.ejected, "it was sent before the trouble began"
    assert server.last_successful_request_at is not None
    succeed(server)  # tried as the last resort
    assert server.available


def test_a_good_probe_ends_the_wait_but_not_the_count(server: Server) -> None:
    fail(server, 3)
    server.note_good_probe()
    assert server.available
    assert server.reason == BOOM, "the owner still reads why"
    assert fail(server) == [True], "one more is enough"
    assert server.seconds_to_trial == 2 * EJECT, "and it is out for longer"


def test_a_good_probe_does_not_overtake_the_trial(server: Server, clock: HandClock) -> None:
    fail(server, 3)
    clock.pass_time(EJECT)
    trial = begin(server)
    server.note_good_probe()
    assert not server.available, "the trial decides"
    trial.end(Blame.FAILURE, BOOM)
    assert server.seconds_to_trial == 2 * EJECT


def test_only_the_monotonic_clock_counts(server: Server, clock: HandClock) -> None:
    fail(server, 3)
    server.note_busy(5.0, "busy")
    for seconds in (1e9, -2e9):
        clock.set_machine_clock(seconds)
        assert (server.available, server.preferred, server.seconds_to_trial) == (False, False, EJECT)
    for _number in range(3):
        server.note_failed_probe(NO_ANSWER)
    clock.set_machine_clock(1e9)
    assert server.unhealthy_seconds == 0


# -- busy, refusing, not serving, moved


def test_a_busy_server_is_not_preferred_for_as_long_as_it_said(server: Server, clock: HandClock) -> None:
    server.note_busy(7.0, "the server is busy (status 429)")
    assert (server.available, server.preferred, server.availability) == (True, False, "busy")
    clock.pass_time(6.9)
    assert not server.preferred
    clock.pass_time(0.1)
    assert (server.preferred, server.availability) == (True, "available")
    assert server.consecutive_failures == 0
    server.note_busy(1.0, "the server is loading its model", loading=True)
    assert (server.available, server.availability) == (True, "loading"), "a probe has not said so: it may be tried"
    server.note_busy(1.0, "busy")
    assert server.availability == "busy"


def test_a_success_clears_what_it_disproves_and_nothing_else(server: Server) -> None:
    old = begin(server)
    server.note_busy(7.0, "busy")
    server.note_connect_failure()
    old.end(Blame.SUCCESS)
    assert not server.preferred, "this one was there before: it says nothing about the slot that was refused"
    assert server.reason == "busy"
    succeed(server)
    assert (server.preferred, server.reason) == (True, None)


def test_a_refused_connection_is_avoided_for_a_moment_only(server: Server, clock: HandClock) -> None:
    server.note_connect_failure()
    assert (server.available, server.preferred, server.availability) == (True, False, "available")
    clock.pass_time(2.0)
    assert server.preferred


def test_a_model_it_does_not_know_waits_for_a_good_probe(server: Server) -> None:
    old = begin(server)
    server.note_model_missing()
    assert (server.available, server.availability, server.may_be_last_resort) == (False, "unhealthy", False)
    old.end(Blame.SUCCESS)
    assert not server.available
    assert server.reason, "and the owner goes on reading why"
    server.note_good_probe()
    assert (server.available, server.reason) == (True, None)


def test_a_model_that_was_listed_and_is_not_any_more(server: Server) -> None:
    for names in (None, [], ["llama.gguf"]):
        assert not server.note_good_probe(names)
        assert server.available, "who never listed it serves it all the same"
    assert not server.note_good_probe(["llama.gguf", MODEL])
    assert server.note_good_probe(["llama.gguf"]), "that is news"
    assert (server.health_status, server.available, server.offers_model) == (HEALTHY, False, False)
    assert (server.availability, server.may_be_last_resort) == ("unhealthy", False)
    assert not server.note_good_probe([]), "and stays so"
    assert server.reason is not None
    assert "does not list this model" in server.reason
    assert server.note_good_probe([MODEL]), "it is back"
    assert (server.available, server.reason) == (True, None)
    server.note_good_probe([])
    server.forget_model()
    server.note_good_probe(["another"])
    assert server.available, "under a new name it is asked anew"


def test_what_an_old_address_did_says_nothing_about_the_new_one(server: Server, clock: HandClock) -> None:
    old = [begin(server) for _number in range(5)]
    fail(server, 2)
    server.forget_health()
    assert (server.health_status, server.reason, server.consecutive_failures) == (UNKNOWN, None, 0)
    server.note_good_probe()
    assert [attempt.end(Blame.FAILURE, BOOM) for attempt in old[:4]] == [False] * 4
    assert (server.available, server.consecutive_failures, server.reason) == (True, 0, None)
    old[4].end(Blame.SUCCESS)
    assert server.last_successful_request_at is None
    assert server.in_flight == 0, "but each of them is counted out"


def test_an_old_trial_does_not_touch_the_new_address(server: Server, clock: HandClock) -> None:
    fail(server, 3)
    clock.pass_time(EJECT)
    old_trial = begin(server)
    server.forget_health()
    server.note_good_probe()
    fail(server, 3)
    clock.pass_time(EJECT)
    begin(server)
    old_trial.end(Blame.SUCCESS)
    assert not server.available, "the new address is still on trial"


# -- slots


def test_slots(clock: HandClock) -> None:
    server = build_server(clock, max_concurrency=2)
    freed: list[int] = []
    first, second = (server.attempt(lambda of: freed.append(of.in_flight)) for _number in range(2))
    assert (server.full, server.available, server.availability, server.in_flight) == (True, False, "busy", 2)
    first.end(Blame.SUCCESS)
    assert (server.full, server.available, server.in_flight) == (False, True, 1)
    assert freed == [1], "told once it is counted out"
    assert not first.end(Blame.FAILURE, BOOM)
    assert (server.in_flight, server.consecutive_failures, freed) == (1, 0, [1]), "an attempt ends once"
    second.end(Blame.NONE)
    assert server.in_flight == 0


def test_a_full_server_without_limit_does_not_exist(server: Server) -> None:
    for _number in range(1000):
        begin(server)
    assert (server.full, server.available) == (False, True)


# -- availability in a word


def test_availability_words_and_their_order(server: Server) -> None:
    assert server.availability == "available"
    server.note_busy(5.0, "busy")
    assert server.availability == "busy"
    fail(server, 3)
    assert server.availability == "ejected"
    server.note_model_missing()
    assert server.availability == "unhealthy"
    server.model_missing = False
    for _number in range(3):
        server.note_failed_probe(NO_ANSWER)
    assert server.availability == "unhealthy"
    server.note_loading()
    assert server.availability == "loading"
    server.draining = True
    assert server.availability == "draining"
    assert (server.available, server.may_be_last_resort) == (False, False)


# -- last resort and probes


def test_a_success_brings_a_late_probe_forward(clock: HandClock) -> None:
    server = build_server(clock, healthy=False)
    server.note_failed_probe(NO_ANSWER)
    server.usual_probe_seconds = clock.monotonic() + 60
    server.next_probe_seconds = clock.monotonic() + 300
    fail(server)
    assert server.next_probe_seconds == clock.monotonic() + 300
    succeed(server)
    assert server.next_probe_seconds == clock.monotonic() + 60, "but it is not probed more often than any other"
    server.next_probe_seconds = clock.monotonic() + 5
    succeed(server)
    assert server.next_probe_seconds == clock.monotonic() + 5


def test_a_success_does_not_hide_why_probes_fail(clock: HandClock) -> None:
    server = build_server(clock, healthy=False)
    server.note_failed_probe(NO_ANSWER)
    succeed(server)
    assert (server.health_status, server.reason) == (UNHEALTHY, NO_ANSWER)


# -- how long it has been lost


def test_unhealthy_for_how_long(clock: HandClock) -> None:
    server = build_server(clock)
    for _number in range(3):
        clock.pass_time(100)
        server.note_failed_probe(NO_ANSWER)
    clock.pass_time(50)
    server.note_failed_probe(NO_ANSWER)
    assert server.unhealthy_seconds == 50, "since the verdict, not since the last probe"
    clock.set_machine_clock(1e8)
    assert server.unhealthy_seconds == 50, "setting the machine's clock makes nobody lost"
    server.note_good_probe()
    assert (server.unhealthy_seconds, server.unhealthy_since) == (0, None)


def test_a_restart_makes_it_no_younger(clock: HandClock) -> None:
    server = build_server(clock, healthy=False)
    server.note_failed_probe(NO_ANSWER)
    succeed(server)
    row = state_row(server)
    clock.pass_time(7200)
    clock.monotonic_now = 3.0  # a new process, perhaps a new boot
    restarted = build_server(clock, healthy=False)
    restore(restarted, row)
    assert restarted.last_successful_request_at == row["last_successful_request_at"] is not None
    assert (restarted.health_status, restarted.unhealthy_seconds) == (UNKNOWN, 0), "nobody has asked it yet"
    restarted.note_failed_probe(NO_ANSWER)
    assert restarted.unhealthy_seconds == pytest.approx(7200, abs=0.01)
    assert restarted.unhealthy_since == row["unhealthy_since"]


@pytest.mark.parametrize("nonsense", ["", "yesterday", 7, None])
def test_a_time_that_cannot_be_read_is_as_good_as_none(clock: HandClock, nonsense: object) -> None:
    server = build_server(clock, healthy=False)
    restore(server, {"draining": 1, "unhealthy_since": nonsense, "last_checked_at": CREATED_AT})
    assert (server.draining, server.last_checked_at, server.unhealthy_since) == (True, CREATED_AT, None)
    server.note_failed_probe(NO_ANSWER)
    assert server.unhealthy_seconds == 0


# -- what is shown


def test_the_record_is_that_of_the_contract_and_has_no_key(clock: HandClock) -> None:
    key = "sk-planted-key-of-the-server"
    server = build_server(clock, api_key=key, tags=("gpu",), max_concurrency=2)
    begin(server)
    fail(server)
    record = record_of(server)
    assert set(record) == set(
        "registration_id model_name served_model_name endpoint_url owner_name owner_email description tags "
        "context_length max_concurrency has_api_key health_status availability reason consecutive_failures "
        "response_time_ms slots in_flight last_checked_at last_successful_request_at created_at updated_at "
        "offered_to friends reserve_slot paused quiet_hours time_zone daily_token_cap tokens_today".split()
    )
    assert record["has_api_key"] is True
    assert (record["in_flight"], record["consecutive_failures"]) == (1, 1)
    assert key not in json.dumps(record) + repr(record) + repr(server.registration) + json.dumps(state_row(server))
    assert record_of(build_server(clock))["has_api_key"] is False


def test_the_observed_state_leaves_the_admins_word_alone(server: Server) -> None:
    assert tuple(state_row(server)) == STATE_COLUMNS
    assert "draining" not in state_row(server), "a verdict written late must not undo a drain"
