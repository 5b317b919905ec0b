"""Fields of schemas that take what JSON says and nothing that only looks like it: `"yes"` is no boolean."""

from __future__ import annotations

from typing import Any

from marshmallow import ValidationError, fields

MAX_NUMBER = 2**31 - 1


class StrictBoolean(fields.Boolean):
    """true or false; marshmallow's own takes "yes", "on" and 1 as well."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise ValidationError("must be true or false")
        return value


class PositiveInteger(fields.Integer):
    """A whole number of at least 1; marshmallow's own takes `true` and "5" as well."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_NUMBER:
            raise ValidationError("must be a whole number of at least 1")
        return value
