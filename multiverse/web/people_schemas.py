"""What may come in about people: keys, claim codes, rosters, usage, their requests. The rules are those of schemas.py.

Times come in as ISO 8601 and are kept in UTC; a date alone means its last moment, since "until the 30th" includes it.
"""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, date, datetime, time
from typing import Any

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, validate

from multiverse.classroom.moods import Mood
from multiverse.clock import iso_from_unix
from multiverse.errors import InvalidRequest
from multiverse.people.keys import ROLES, STUDENT
from multiverse.people.usage import OUTCOMES
from multiverse.storage.usage_table import GROUPS
from multiverse.web.schemas import ModelNames, PositiveInteger, QueryInteger, load
from multiverse.web.strict_fields import StrictBoolean
from multiverse.web.text_fields import Email, Line

MOST_USES, MOST_ROSTER_ROWS, LONGEST_ROSTER, HEAVIEST = 10_000, 2000, 1_000_000, 100
LONGEST_LIFETIME_MINUTES = 60 * 24 * 366
LONGEST_MOOD_MINUTES = 60
# OWASP, CSV injection: the last four are what keyboards for Chinese and Japanese write, and spreadsheets take as well.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
# Not `time.max`, which comes out as the next day when it is far enough away for floating point to round.
LAST_OF_DAY = time(23, 59, 59, 999_500)
QUOTED = re.compile(r'"[^"]*"')
DELIMITERS = ",;\t"
LINE_END = re.compile(r"\r\n?")  # A CR alone ends a line in what Excel calls a CSV for the Macintosh.
NAMES_OF_EMAIL = re.compile(r"^(?:e-?)?mail(?:[ -]?address)?$")
KEY_ROLES = validate.OneOf(ROLES)
CLAIMED_ROLES = validate.OneOf([role for role in ROLES if role != "admin"])


class Moment(fields.Field[str]):
    """A point in time; out comes UTC as everywhere else. A day is its last moment, or with `from_start` its first."""

    def __init__(self, *, from_start: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._of_day = time.min if from_start else LAST_OF_DAY

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        needs = "must be a date or a time with its zone, such as 2027-06-30 or 2027-06-30T18:00:00Z"
        try:
            text = value.strip()
            moment = (
                datetime.combine(date.fromisoformat(text), self._of_day, UTC)
                if len(text) == 10
                else datetime.fromisoformat(text)
            )
            if moment.tzinfo is None:
                raise ValidationError(needs)
            return iso_from_unix(moment.timestamp())
        except (AttributeError, ValueError, OverflowError, OSError):
            raise ValidationError(needs) from None


class ChangeKeySchema(Schema):
    """Any field of a key; null clears an optional one."""

    class Meta:
        unknown = RAISE

    name = Line(longest=200, validate=validate.Length(min=1))
    email = Email(longest=254, allow_none=True)
    role = fields.String(validate=KEY_ROLES)
    models = ModelNames(allow_none=True)
    expires_at = Moment(allow_none=True)
    weight = PositiveInteger(validate=validate.Range(max=HEAVIEST))
    requests_per_minute = PositiveInteger(allow_none=True)
    tokens_per_day = PositiveInteger(allow_none=True)
    requests_at_once = PositiveInteger(allow_none=True)


class CreateKeySchema(ChangeKeySchema):
    """A key: `name`, the rest as one likes."""

    name = Line(longest=200, required=True, validate=validate.Length(min=1))


class RosterSchema(Schema):
    """A roster as CSV (`name,email`, with or without a head), and what all its keys have in common."""

    class Meta:
        unknown = RAISE

    csv = fields.String(required=True, validate=validate.Length(max=LONGEST_ROSTER))
    role = fields.String(validate=CLAIMED_ROLES)
    models = ModelNames(allow_none=True)
    expires_at = Moment(allow_none=True)


class ClaimCodeSchema(Schema):
    """A claim code: how many may use it and for how long, and what the keys that come of it can do."""

    class Meta:
        unknown = RAISE

    uses = PositiveInteger(load_default=40, validate=validate.Range(max=MOST_USES))
    lifetime_minutes = PositiveInteger(load_default=90, validate=validate.Range(max=LONGEST_LIFETIME_MINUTES))
    role = fields.String(load_default=STUDENT, validate=CLAIMED_ROLES)
    models = ModelNames(allow_none=True)
    key_expires_at = Moment(allow_none=True)


class ClaimSchema(Schema):
    """Who trades which code for a key."""

    class Meta:
        unknown = RAISE

    code = Line(longest=40, required=True)
    name = Line(longest=200, required=True, validate=validate.Length(min=1))
    email = Email(longest=254, allow_none=True)


class AccountSchema(Schema):
    """What the holder of a key may change of it."""

    class Meta:
        unknown = RAISE

    on_thanks_board = StrictBoolean()


class FormatQuerySchema(Schema):
    """A list as JSON, or as CSV for a spreadsheet."""

    class Meta:
        unknown = RAISE

    format = fields.String(validate=validate.OneOf(["json", "csv"]))


class Day(fields.Field[str]):
    """A day, as in `2027-01-31`."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        try:
            return date.fromisoformat(value).isoformat()
        except (TypeError, ValueError):
            raise ValidationError("must be a day such as 2027-01-31") from None


class Groups(fields.Field[list[str]]):
    """What sums are grouped by, with commas between."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[str]:
        names = [name.strip() for name in value.split(",")] if isinstance(value, str) else []
        if not names or not set(names) <= set(GROUPS) or len(set(names)) < len(names):
            raise ValidationError(f"must be one or more of {', '.join(GROUPS)}, with commas between")
        return names


class OwnUsageQuerySchema(FormatQuerySchema):
    """The query of `GET /v1/usage`."""

    group_by = Groups()
    since = Day()
    until = Day()
    model_name = fields.String()


class UsageQuerySchema(OwnUsageQuerySchema):
    """The query of `GET /admin/usage`."""

    key_id = fields.String()
    registration_id = fields.String()


STORY_ORDERS = [sign + name for name in ("started_at", "total_ms", "first_token_ms", "queue_ms") for sign in ("", "-")]


class StoriesQuerySchema(Schema):
    """The query of `GET /v1/requests`."""

    class Meta:
        unknown = RAISE

    key_name = fields.String()
    model = fields.String()
    outcome = fields.String(validate=validate.OneOf(OUTCOMES))
    since = Moment(from_start=True)
    until = Moment()
    sort = fields.String(validate=validate.OneOf(STORY_ORDERS))
    limit = QueryInteger(validate=validate.Range(min=1, max=500))


class PersonSchema(Schema):
    """One line of a roster."""

    class Meta:
        unknown = EXCLUDE

    name = Line(longest=200, required=True, validate=validate.Length(min=1))
    email = Email(longest=254, allow_none=True)


PERSON_SCHEMA = PersonSchema()


def read_roster(text: str) -> list[dict[str, Any]]:
    """Name and e-mail of each line of a CSV file; a first line that says `name` tells the columns, in any order, of
    which others are passed over.

    Cells are divided as in the first line: by commas, by semicolons (as spreadsheets in half of Europe write), by tabs.

    Raises InvalidRequest that names the line at fault; nobody shall get a key before the whole file is good.
    """
    numbered: list[tuple[int, list[str]]] = []
    text = LINE_END.sub("\n", text.lstrip("\ufeff"))
    try:
        reader, line = csv.reader(io.StringIO(text), delimiter=_delimiter(text), strict=True), 1
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                numbered.append((line, cells))
            line = reader.line_num + 1  # A cell may go over several.
            if len(numbered) > MOST_ROSTER_ROWS + 1:
                break  # Too many already: the rest would only hold up the loop.
    except csv.Error as error:
        raise InvalidRequest(f"The roster is not CSV: {error}.", param="csv") from error
    columns = ["name", "email"]
    head = [NAMES_OF_EMAIL.sub("email", cell.lower()) for cell in numbered[0][1]] if numbered else []
    if "name" in head:
        columns = head
        del numbered[0]
    if not 1 <= len(numbered) <= MOST_ROSTER_ROWS:
        raise InvalidRequest(f"The roster must have 1 to {MOST_ROSTER_ROWS} people.", param="csv")
    return [_read_person(number, dict(zip(columns, row, strict=False))) for number, row in numbered]


def _delimiter(text: str) -> str:
    first_line = QUOTED.sub("", text.lstrip("\n").partition("\n")[0])
    return max(DELIMITERS, key=first_line.count)  # The comma where there is none of them.


def _read_person(number: int, cells: dict[str, str]) -> dict[str, Any]:
    try:
        return load(PERSON_SCHEMA, {name: cell for name, cell in cells.items() if cell})
    except InvalidRequest as error:
        raise InvalidRequest(f"Line {number} of the roster: {error.message}", param="csv") from error


def write_csv(columns: list[str], rows: list[dict[str, Any]]) -> str:
    """`rows` as CSV. A cell that a spreadsheet would take for a formula gets an apostrophe (OWASP, CSV injection)."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row[name]) for name in columns])
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        value = " ".join(map(str, value))
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


class MoodSchema(Schema):
    """What a pretend server shall do, and for how long."""

    class Meta:
        unknown = RAISE

    mood = fields.String(required=True, validate=validate.OneOf([mood.value for mood in Mood]))
    minutes = PositiveInteger(load_default=5, validate=validate.Range(max=LONGEST_MOOD_MINUTES))


class AliasSchema(Schema):
    """What a name stands for."""

    class Meta:
        unknown = RAISE

    models = ModelNames(required=True)
