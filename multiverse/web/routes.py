"""ROUTES: every route, who may call it, and what goes in. Tornado, the documents and the tests read this one table.

`access` has no default on purpose: a route that has not decided who may call it does not construct.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from multiverse.web.handlers import admin, aliases, inference, keys, system, usage
from multiverse.web.handlers.base import GatewayHandler
from multiverse.web.people_schemas import (
    ChangeKeySchema,
    ClaimCodeSchema,
    ClaimSchema,
    CreateKeySchema,
    FormatQuerySchema,
    OwnUsageQuerySchema,
    RosterSchema,
    UsageQuerySchema,
)
from multiverse.web.schemas import (
    AliasSchema,
    CallSchema,
    ProbesQuerySchema,
    RegisterSchema,
    Schema,
    ServerQuerySchema,
    ServerSchema,
    UpdateSchema,
)

# "owner": an admin, or a student for the servers registered with that student's key.
Access = Literal["anyone", "client", "owner", "admin"]

REGISTRATION_ID = KEY_ID = CODE_ID = "([^/]+)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One row. `shown` is the path as people write it, `pattern` as Tornado matches it; `methods` has the documented
    ones with a sentence each. `request_schema` set means that the body is JSON.
    """

    shown: str
    pattern: str
    handler: type[GatewayHandler]
    access: Access
    methods: dict[str, str]
    request_schema: type[Schema] | None = None
    query_schema: type[Schema] | None = None
    reply_schema: type[Schema] | None = None
    answers_while_draining: bool = False


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
        methods={"GET": "Where everything is."},
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
        shown="/admin/register",
        pattern="/admin/register",
        handler=admin.RegisterHandler,
        access="owner",
        methods={"POST": "Register a server, or update the one registered for the same model and address."},
        request_schema=RegisterSchema,
        reply_schema=ServerSchema,
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
        reply_schema=ServerSchema,
    ),
    Route(
        shown="/admin/servers",
        pattern="/admin/servers",
        handler=admin.ServersHandler,
        access="owner",
        methods={"GET": "List the servers, filtered and sorted."},
        query_schema=ServerQuerySchema,
        reply_schema=ServerSchema,
    ),
    Route(
        shown="/admin/servers/{registration_id}",
        pattern=f"/admin/servers/{REGISTRATION_ID}",
        handler=admin.ServerHandler,
        access="owner",
        methods={"GET": "One server with its latest probes."},
        query_schema=ProbesQuerySchema,
        reply_schema=ServerSchema,
    ),
    Route(
        shown="/admin/servers/{registration_id}/probe",
        pattern=f"/admin/servers/{REGISTRATION_ID}/probe",
        handler=admin.ProbeHandler,
        access="owner",
        methods={"POST": "Probe the server now."},
        reply_schema=ServerSchema,
    ),
    Route(
        shown="/admin/servers/{registration_id}/drain",
        pattern=f"/admin/servers/{REGISTRATION_ID}/drain",
        handler=admin.DrainHandler,
        access="owner",
        methods={"POST": "Take the server out of rotation without deregistering it."},
        reply_schema=ServerSchema,
    ),
    Route(
        shown="/admin/servers/{registration_id}/resume",
        pattern=f"/admin/servers/{REGISTRATION_ID}/resume",
        handler=admin.ResumeHandler,
        access="owner",
        methods={"POST": "Put a drained server back into rotation."},
        reply_schema=ServerSchema,
    ),
    Route(
        shown="/admin/aliases",
        pattern="/admin/aliases",
        handler=aliases.AliasesHandler,
        access="admin",
        methods={"GET": "List the names that stand for models."},
    ),
    Route(
        shown="/admin/aliases/{name}",
        pattern="/admin/aliases/(.+)",
        handler=aliases.AliasHandler,
        access="admin",
        methods={"PUT": "Let a name stand for models, in order.", "DELETE": "Let it stand for nothing else."},
        request_schema=AliasSchema,
    ),
    Route(
        shown="/admin/keys",
        pattern="/admin/keys",
        handler=keys.KeysHandler,
        access="admin",
        methods={"POST": "Make a key; it is shown once.", "GET": "List the keys, without their secrets."},
        request_schema=CreateKeySchema,
        query_schema=FormatQuerySchema,
    ),
    Route(
        shown="/admin/keys/import",
        pattern="/admin/keys/import",
        handler=keys.RosterHandler,
        access="admin",
        methods={"POST": "Make a key for everybody on a roster."},
        request_schema=RosterSchema,
    ),
    Route(
        shown="/admin/keys/{key_id}",
        pattern=f"/admin/keys/{KEY_ID}",
        handler=keys.KeyHandler,
        access="admin",
        methods={
            "GET": "One key, without its secret.",
            "PATCH": "Change the fields that are sent; null clears an optional one.",
            "DELETE": "Revoke the key.",
        },
        request_schema=ChangeKeySchema,
    ),
    Route(
        shown="/admin/claim-codes",
        pattern="/admin/claim-codes",
        handler=keys.ClaimCodesHandler,
        access="admin",
        methods={"POST": "Make a claim code; it is shown once.", "GET": "List the claim codes."},
        request_schema=ClaimCodeSchema,
    ),
    Route(
        shown="/admin/claim-codes/{code_id}",
        pattern=f"/admin/claim-codes/{CODE_ID}",
        handler=keys.ClaimCodeHandler,
        access="admin",
        methods={"DELETE": "Withdraw the code; keys that were claimed with it stay."},
    ),
    Route(
        shown="/claim",
        pattern="/claim",
        handler=keys.ClaimHandler,
        access="anyone",
        methods={"POST": "Trade a claim code for a key of one's own."},
        request_schema=ClaimSchema,
    ),
    Route(
        shown="/admin/usage",
        pattern="/admin/usage",
        handler=usage.UsageHandler,
        access="admin",
        methods={"GET": "Requests and tokens by day, model, key or server."},
        query_schema=UsageQuerySchema,
    ),
    Route(
        shown="/admin/ledger",
        pattern="/admin/ledger",
        handler=usage.LedgerHandler,
        access="admin",
        methods={"GET": "Tokens given and taken, by person."},
        query_schema=FormatQuerySchema,
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
        shown="/v1/usage",
        pattern="/v1/usage",
        handler=usage.OwnUsageHandler,
        access="client",
        methods={"GET": "What the key that asks has used and given."},
        query_schema=OwnUsageQuerySchema,
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
