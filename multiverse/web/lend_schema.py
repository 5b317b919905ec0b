"""The body of `POST /admin/lend`. The rules are those of schemas.py."""

from __future__ import annotations

from typing import Any

from marshmallow import RAISE, ValidationError, fields, validate, validates_schema

from multiverse.web.schemas import UpdateSchema
from multiverse.web.strict_fields import PositiveInteger
from multiverse.web.text_fields import Line

LAST_PORT, MOST_PORTS, MOST_MODELS = 65_535, 8, 200


class Port(PositiveInteger):
    """The number of a TCP port."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        port = super()._deserialize(value, attr, data, **kwargs)
        if port > LAST_PORT:
            raise ValidationError(f"must be at most {LAST_PORT}")
        return port


class LendSchema(UpdateSchema):
    """Where to look, which of the models found there, and what a registration may say besides; all of it optional."""

    class Meta:
        unknown = RAISE
        exclude = ("model_name", "served_model_name", "context_length", "require_healthy")

    endpoint_url = fields.String(allow_none=True)
    ports = fields.List(
        Port(),
        allow_none=True,
        validate=validate.Length(1, MOST_PORTS, error=f"must be 1 to {MOST_PORTS} ports, such as [11434]"),
    )
    models = fields.List(
        Line(longest=500),
        allow_none=True,
        validate=validate.Length(1, MOST_MODELS, error=f"must be 1 to {MOST_MODELS} names as the server lists them"),
    )

    @validates_schema
    def _one_server_where_it_matters(self, data: dict[str, Any], **kwargs: Any) -> None:
        if data.get("endpoint_url") is not None and data.get("ports") is not None:
            raise ValidationError("leave them out: the address in `endpoint_url` has its own", "ports")
        # A server sees its own key and no other's.
        if data.get("api_key") is not None and data.get("endpoint_url") is None and len(data.get("ports") or ()) != 1:
            raise ValidationError("say with `endpoint_url`, or with one port in `ports`, whose key it is", "api_key")
