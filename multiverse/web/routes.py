"""ROUTES: every route, who may call it, and what goes in. Tornado, the documents and the tests read this one table.

`access` has no default on purpose: a route that has not decided who may call it does not construct.
"""

from __future__ import annotations

from multiverse.web.handlers import (
    admin,
    api_docs,
    diagnosis,
    events,
    inference,
    insight,
    lending,
    mirror,
    pages,
    session,
    system,
)
from multiverse.web.lend_schema import LendSchema
from multiverse.web.people_routes import PEOPLE_ROUTES
from multiverse.web.people_schemas import StoriesQuerySchema
from multiverse.web.route import REGISTRATION_ID, REQUEST_ID, STATIC_NAME, Route
from multiverse.web.schemas import (
    CallSchema,
    LogQuerySchema,
    ProbeAddressSchema,
    ProbesQuerySchema,
    RegisterSchema,
    ServerQuerySchema,
    SignInSchema,
    TermsSchema,
    UpdateSchema,
)


def _page(path: str, handler: type[pages.PageHandler], summary: str) -> Route:
    pattern = path.replace("{registration_id}", REGISTRATION_ID).replace("{id}", REQUEST_ID)
    return Route(shown=path, pattern=pattern, handler=handler, access="anyone", methods={"GET": summary})


def _forwarded(path: str, summary: str) -> Route:
    return Route(
        shown=path,
        pattern=path,
        handler=inference.ForwardHandler,
        access="client",
        methods={"POST": summary},
        request_schema=CallSchema,
    )


ROUTES: tuple[Route, ...] = (
    Route(
        shown="/",
        pattern="/",
        handler=system.RootHandler,
        access="anyone",
        methods={"GET": "The dashboard for browsers; where everything is, as JSON, for everybody else."},
    ),
    _page("/register", pages.RegisterPage, "The form with which a server is registered."),
    _page("/servers/{registration_id}", pages.ServerPage, "One server: its probes, its numbers, what to do with it."),
    _page("/models", pages.ModelsPage, "The models and who offers them."),
    _page("/playground", pages.PlaygroundPage, "Chat with a model."),
    _page("/account", pages.AccountPage, "One's own key: what it may do, what it has used, one's own servers."),
    _page("/usage", pages.UsagePage, "Requests and tokens by day, model, key and server; one's own, or the admin's."),
    _page("/thanks", pages.ThanksPage, "Who has lent how much."),
    _page("/keys", pages.KeysPage, "Keys and claim codes: made, changed, revoked, imported."),
    _page("/requests", pages.RequestsPage, "The latest requests, and where their time went."),
    _page("/requests/{id}", pages.StoryPage, "What happened to one request."),
    _page("/logs", pages.LogsPage, "The latest log records."),
    _page("/settings", pages.SettingsPage, "The settings the gateway runs with."),
    _page("/sign-in", pages.SignInPage, "Where a key is given for a session."),
    Route(
        shown="/static/{version}/{name}",
        pattern=f"/static/([0-9a-z]{{1,20}})/{STATIC_NAME}",
        handler=pages.StaticHandler,
        access="anyone",
        methods={"GET": "Scripts and styles of the pages."},
    ),
    Route(
        shown="/session",
        pattern="/session",
        handler=session.SessionHandler,
        access="anyone",
        methods={
            "GET": "Who is signed in.",
            "POST": "Sign in: a key for a session.",
            "DELETE": "Sign out.",
        },
        request_schema=SignInSchema,
    ),
    Route(
        shown="/health",
        pattern="/health",
        handler=system.HealthHandler,
        access="anyone",
        methods={"GET": "Health of the gateway itself; 503 while it drains or its database does not answer."},
        answers_while_draining=True,
    ),
    Route(
        shown="/docs",
        pattern="/docs",
        handler=api_docs.DocsPageHandler,
        access="anyone",
        methods={"GET": "The API described, to try out (Swagger UI)."},
    ),
    Route(
        shown="/docs/{name}",
        pattern=r"/docs/([A-Za-z0-9_.-]+)",
        handler=api_docs.DocsFileHandler,
        access="anyone",
        methods={"GET": "Scripts and styles of the pages that describe the API."},
    ),
    Route(
        shown="/redoc",
        pattern="/redoc",
        handler=api_docs.RedocPageHandler,
        access="anyone",
        methods={"GET": "The API described, to read (ReDoc)."},
    ),
    Route(
        shown="/openapi.json",
        pattern=r"/openapi\.json",
        handler=api_docs.DocumentHandler,
        access="anyone",
        methods={"GET": "The API described, for programs (OpenAPI 3.1)."},
    ),
    Route(
        shown="/metrics",
        pattern="/metrics",
        handler=diagnosis.MetricsHandler,
        access="anyone",
        methods={"GET": "Numbers for Prometheus; METRICS_TOKEN as bearer where it is set."},
        answers_while_draining=True,
    ),
    Route(
        shown="/admin/register",
        pattern="/admin/register",
        handler=admin.RegisterHandler,
        access="owner",
        methods={"POST": "Register a server, or update the one registered for the same model and address."},
        request_schema=RegisterSchema,
    ),
    Route(
        shown="/admin/register/{registration_id}",
        pattern=f"/admin/register/{REGISTRATION_ID}",
        handler=admin.RegistrationHandler,
        access="owner",
        methods={
            "PUT": "Change the fields that are sent; null clears an optional one.",
            "DELETE": "Deregister: no new request goes there, those under way finish.",
        },
        request_schema=UpdateSchema,
    ),
    Route(
        shown="/admin/servers",
        pattern="/admin/servers",
        handler=admin.ServersHandler,
        access="owner",
        methods={"GET": "List the servers, filtered and sorted."},
        query_schema=ServerQuerySchema,
    ),
    Route(
        shown="/admin/servers/{registration_id}",
        pattern=f"/admin/servers/{REGISTRATION_ID}",
        handler=admin.ServerHandler,
        access="owner",
        methods={
            "GET": "One server with its latest probes.",
            "PATCH": "Change the terms on which it is lent; null takes one back.",
        },
        request_schema=TermsSchema,
        query_schema=ProbesQuerySchema,
    ),
    Route(
        shown="/admin/servers/{registration_id}/probe",
        pattern=f"/admin/servers/{REGISTRATION_ID}/probe",
        handler=admin.ProbeHandler,
        access="owner",
        methods={"POST": "Probe the server now."},
    ),
    Route(
        shown="/admin/servers/{registration_id}/drain",
        pattern=f"/admin/servers/{REGISTRATION_ID}/drain",
        handler=admin.DrainHandler,
        access="owner",
        methods={"POST": "Take the server out of rotation without deregistering it."},
    ),
    Route(
        shown="/admin/servers/{registration_id}/pause",
        pattern=f"/admin/servers/{REGISTRATION_ID}/pause",
        handler=admin.PauseHandler,
        access="owner",
        methods={"POST": "Lend the server to nobody but its owner until it is resumed."},
    ),
    Route(
        shown="/admin/servers/{registration_id}/resume",
        pattern=f"/admin/servers/{REGISTRATION_ID}/resume",
        handler=admin.ResumeHandler,
        access="owner",
        methods={"POST": "End a drain and a pause."},
    ),
    Route(
        shown="/admin/stats",
        pattern="/admin/stats",
        handler=admin.StatsHandler,
        access="admin",
        methods={"GET": "Counts since the gateway started, and what is under way."},
    ),
    Route(
        shown="/v1/queue",
        pattern="/v1/queue",
        handler=inference.QueueHandler,
        access="client",
        methods={"GET": "Who waits for which model, and where one's own requests stand."},
    ),
    Route(
        shown="/admin/probe",
        pattern="/admin/probe",
        handler=insight.ProbeAddressHandler,
        access="owner",
        methods={"POST": "Probe an address that is not registered, and list its models."},
        request_schema=ProbeAddressSchema,
    ),
    Route(
        shown="/admin/lend",
        pattern="/admin/lend",
        handler=lending.LendHandler,
        access="owner",
        methods={"POST": "Find the servers on the machine that asks, and register their models."},
        request_schema=LendSchema,
    ),
    Route(
        shown="/admin/mirror",
        pattern="/admin/mirror",
        handler=mirror.MirrorHandler,
        access="admin",
        methods={
            "GET": "What of a request arrives here, and a short stream by the clock; for `multiverse doctor`.",
            "POST": "How many bytes of a body arrive.",
        },
    ),
    Route(
        shown="/admin/events",
        pattern="/admin/events",
        handler=events.EventsHandler,
        access="admin",
        methods={"GET": "A stream of events: what changes, as it changes."},
    ),
    Route(
        shown="/admin/history",
        pattern="/admin/history",
        handler=insight.HistoryHandler,
        access="admin",
        methods={"GET": "Requests of the last hour by minute, and of today."},
    ),
    Route(
        shown="/admin/models",
        pattern="/admin/models",
        handler=insight.ModelNumbersHandler,
        access="admin",
        methods={"GET": "Every registered model with its servers and numbers."},
    ),
    Route(
        shown="/admin/logs",
        pattern="/admin/logs",
        handler=insight.LogsHandler,
        access="admin",
        methods={"GET": "The latest log records, filtered."},
        query_schema=LogQuerySchema,
    ),
    Route(
        shown="/admin/settings",
        pattern="/admin/settings",
        handler=insight.EffectiveSettingsHandler,
        access="admin",
        methods={"GET": "The settings the gateway runs with, without secrets; versions, uptime, size of the database."},
    ),
    Route(
        shown="/v1/models",
        pattern="/v1/models",
        handler=inference.ModelsHandler,
        access="client",
        methods={"GET": "The models that at least one healthy server offers."},
    ),
    Route(
        shown="/v1/models/{id}",
        pattern="/v1/models/(.+)",
        handler=inference.ModelHandler,
        access="client",
        methods={"GET": "One model; slashes in its id may be raw or %2F."},
    ),
    Route(
        shown="/v1/requests",
        pattern="/v1/requests",
        handler=diagnosis.StoriesHandler,
        access="client",
        methods={"GET": "The latest requests, where their time went: one's own, or the admin's to read."},
        query_schema=StoriesQuerySchema,
    ),
    Route(
        shown="/v1/requests/{id}",
        pattern=f"/v1/requests/{REQUEST_ID}",
        handler=diagnosis.StoryHandler,
        access="client",
        methods={"GET": "What happened to a request, in order; one's own, or the admin's to read."},
    ),
    *PEOPLE_ROUTES,
    _forwarded("/v1/chat/completions", "Create a chat completion, plain or as a stream of events."),
    _forwarded("/v1/completions", "Create a text completion, plain or as a stream of events."),
    _forwarded("/v1/embeddings", "Create embeddings."),
    _forwarded("/v1/responses", "Create a response, plain or as a stream of events."),
    Route(
        shown="/v1/{route}",
        pattern="/v1/.+",
        handler=inference.AnyForwardHandler,
        access="client",
        methods={"POST": "Any other route whose JSON body names a `model`: forwarded likewise."},
        request_schema=CallSchema,
    ),
)
