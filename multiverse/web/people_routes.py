"""The rows of ROUTES for people: keys, what they use, names they call models by, the classroom."""

from __future__ import annotations

from multiverse.web.handlers import account, aliases, classroom, keys, usage
from multiverse.web.people_schemas import (
    AccountSchema,
    AliasSchema,
    ChangeKeySchema,
    ClaimCodeSchema,
    ClaimSchema,
    CreateKeySchema,
    FormatQuerySchema,
    MoodSchema,
    OwnUsageQuerySchema,
    RosterSchema,
    UsageQuerySchema,
)
from multiverse.web.route import CODE_ID, KEY_ID, REGISTRATION_ID, Route

PEOPLE_ROUTES: tuple[Route, ...] = (
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
        shown="/admin/classroom",
        pattern="/admin/classroom",
        handler=classroom.ClassroomHandler,
        access="admin",
        methods={"GET": "The pretend servers of the classroom, and the moods there are."},
    ),
    Route(
        shown="/admin/classroom/{registration_id}",
        pattern=f"/admin/classroom/{REGISTRATION_ID}",
        handler=classroom.MoodHandler,
        access="admin",
        methods={"PUT": "Make a pretend server slow, busy, broken or lying, for some minutes."},
        request_schema=MoodSchema,
    ),
    Route(
        shown="/claim",
        pattern="/claim",
        handler=keys.ClaimHandler,
        access="anyone",
        methods={
            "GET": "The page on which a claim code is traded for a key.",
            "POST": "Trade a claim code for a key of one's own.",
        },
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
        shown="/v1/account",
        pattern="/v1/account",
        handler=account.AccountHandler,
        access="client",
        methods={
            "GET": "The key that asks, what it may use, and what it has used today.",
            "PATCH": "Change what its holder decides: whether the thanks board shows the name.",
        },
        request_schema=AccountSchema,
    ),
    Route(
        shown="/v1/thanks",
        pattern="/v1/thanks",
        handler=account.ThanksHandler,
        access="client",
        methods={"GET": "Tokens given by lenders, by name where they asked for it."},
    ),
    Route(
        shown="/v1/usage",
        pattern="/v1/usage",
        handler=usage.OwnUsageHandler,
        access="client",
        methods={"GET": "What the key that asks has used and given."},
        query_schema=OwnUsageQuerySchema,
    ),
)
