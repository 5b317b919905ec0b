"""What goes out about people, in marshmallow: keys, claim codes, aliases, usage. Rules: see reply_schemas.py."""

from __future__ import annotations

from marshmallow import fields

from multiverse.web.reply_schemas import ReplySchema, counts_of, list_of


class KeySchema(ReplySchema):
    """A key, without its secret; null in `models` and limits is "no own one"."""

    key_id = fields.String()
    name = fields.String()
    email = fields.String(allow_none=True)
    role = fields.String()
    models = fields.List(fields.String(), allow_none=True)
    weight = fields.Integer()
    requests_per_minute = fields.Integer(allow_none=True)
    tokens_per_day = fields.Integer(allow_none=True)
    requests_at_once = fields.Integer(allow_none=True)
    on_thanks_board = fields.Boolean(allow_none=True)
    hint = fields.String()
    expires_at = fields.String(allow_none=True)
    created_at = fields.String()
    revoked_at = fields.String(allow_none=True)
    status = fields.String()


class OwnLimitsSchema(ReplySchema):
    """What a key may use; null is "as much as it likes"."""

    requests_per_minute = fields.Integer(allow_none=True)
    tokens_per_day = fields.Integer(allow_none=True)
    requests_at_once = fields.Integer(allow_none=True)


class AccountReplySchema(KeySchema):
    """The key that asks; for keys of the settings all that only a record knows is null."""

    hint = fields.String(allow_none=True)
    created_at = fields.String(allow_none=True)
    limits = fields.Nested(OwnLimitsSchema)
    tokens_today = fields.Integer()


class ThankedSchema(ReplySchema):
    """Somebody who wants to be named."""

    name = fields.String()
    tokens_given = fields.Integer()
    requests_given = fields.Integer()
    you = fields.Boolean()


class ThanksSchema(ReplySchema):
    """`GET /v1/thanks`."""

    people = list_of(ThankedSchema)
    others = counts_of("OtherLenders", "people", "tokens_given")
    tokens_given = fields.Integer()
    requests_given = fields.Integer()


class RevokedKeySchema(KeySchema):
    """A key, and what was done to it."""

    message = fields.String()


class SecretKeySchema(KeySchema):
    """A key with its secret."""

    key = fields.String()


class NewKeySchema(SecretKeySchema):
    """A key that was just made."""

    message = fields.String()


class KeysSchema(ReplySchema):
    """`GET /admin/keys`."""

    keys = list_of(KeySchema)
    total = fields.Integer()


class NewKeysSchema(ReplySchema):
    """`POST /admin/keys/import`."""

    keys = list_of(SecretKeySchema)
    total = fields.Integer()


class CodeSchema(ReplySchema):
    """A claim code, without its letters."""

    code_id = fields.String()
    role = fields.String()
    models = fields.List(fields.String(), allow_none=True)
    uses = fields.Integer()
    used = fields.Integer()
    expires_at = fields.String()
    key_expires_at = fields.String(allow_none=True)
    created_at = fields.String()


class NewCodeSchema(CodeSchema):
    """A code that was just made."""

    code = fields.String()
    message = fields.String()


class CodesSchema(ReplySchema):
    """`GET /admin/claim-codes`."""

    claim_codes = list_of(CodeSchema)
    total = fields.Integer()


class WithdrawnSchema(ReplySchema):
    """`DELETE /admin/claim-codes/{code_id}`."""

    message = fields.String()
    code_id = fields.String()


class AliasRecordSchema(ReplySchema):
    """A name that stands for models."""

    name = fields.String()
    models = fields.List(fields.String())
    created_at = fields.String()


class AliasesSchema(ReplySchema):
    """`GET /admin/aliases`."""

    aliases = list_of(AliasRecordSchema)
    total = fields.Integer()


class RemovedAliasSchema(ReplySchema):
    """`DELETE /admin/aliases/{name}`."""

    message = fields.String()
    name = fields.String()


class PupilSchema(ReplySchema):
    """A pretend server, what it does now and for how long still."""

    registration_id = fields.String()
    name = fields.String()
    mood = fields.String()
    seconds_left = fields.Integer()


class ClassroomSchema(ReplySchema):
    """`GET /admin/classroom`; `moods` says what each of them means."""

    servers = list_of(PupilSchema)
    moods = fields.Dict(keys=fields.String(), values=fields.String())


class SumsSchema(ReplySchema):
    """Sums of usage."""

    requests = fields.Integer()
    ok = fields.Integer()
    failed = fields.Integer()
    client_closed = fields.Integer()
    rejected = fields.Integer()
    prompt_tokens = fields.Integer()
    completion_tokens = fields.Integer()
    estimated_tokens = fields.Integer()


class UsageRowSchema(SumsSchema):
    """Sums of one group, with what it is grouped by."""

    sometimes = frozenset({"day", "model_name", "key_id", "key_name", "registration_id"})

    day = fields.String()
    model_name = fields.String()
    key_id = fields.String()
    key_name = fields.String()
    registration_id = fields.String()


class UsageReportSchema(ReplySchema):
    """`GET /admin/usage`."""

    since = fields.String(allow_none=True)
    until = fields.String(allow_none=True)
    group_by = fields.List(fields.String())
    rows = list_of(UsageRowSchema)
    totals = fields.Nested(SumsSchema)


class OwnUsageReportSchema(UsageReportSchema):
    """`GET /v1/usage`."""

    key_id = fields.String()
    name = fields.String()
    role = fields.String()
    tokens_given = fields.Integer()
    tokens_taken = fields.Integer()


class PersonSumsSchema(ReplySchema):
    """What a person has given and taken."""

    person = fields.String()
    name = fields.String()
    tokens_given = fields.Integer()
    tokens_taken = fields.Integer()
    requests_given = fields.Integer()
    requests_taken = fields.Integer()


class LedgerSchema(ReplySchema):
    """`GET /admin/ledger`."""

    people = list_of(PersonSumsSchema)
    total = fields.Integer()
