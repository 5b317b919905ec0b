"""Tornado's `HTTPHeaders` built at once from what is known to be right, without its checks of every name and value.

For heads that were read strictly (front/heads.py), and for the headers that every answer of ours begins with. Names
stand in one spelling, so that whoever knows it finds them in a plain dictionary.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from tornado.httputil import HTTPHeaders, format_timestamp

LONGEST_REMEMBERED = 64
NONE_REPEATED: Mapping[str, list[str]] = MappingProxyType({})


class KnownHeaders(HTTPHeaders):
    """Headers of Tornado 6.6. `fields` has the value of each name in its usual spelling: of those in `repeated`, all
    values with commas between.
    """

    def __init__(self, fields: dict[str, str], repeated: Mapping[str, list[str]] = NONE_REPEATED) -> None:
        self.fields = fields
        self.repeated = repeated

    def get_all(self) -> Iterable[tuple[str, str]]:
        """All pairs."""
        if not self.repeated:
            return self.fields.items()
        return [(name, value) for name in self.fields for value in self.get_list(name)]

    def get_list(self, name: str) -> list[str]:
        """The values of one name."""
        name = usual_spelling(name)
        if name in self.repeated:
            return list(self.repeated[name])
        return [self.fields[name]] if name in self.fields else []

    def lines(self) -> list[str]:
        """As they stand in a head."""
        return list(map(": ".join, self.get_all() if self.repeated else self.fields.items()))

    def add(self, name: str, value: str, **_ignored: Any) -> None:
        """One more value."""
        name = usual_spelling(name)
        values = [*self.get_list(name), value]
        self.fields[name] = ",".join(values)
        if len(values) > 1:
            self.repeated = {**self.repeated, name: values}

    def set_all(self, pairs: Mapping[str, str]) -> None:
        """As `update`, for names of ours."""
        if self.repeated:
            self.update(pairs)
            return
        fields = self.fields
        for name, value in pairs.items():
            fields[usual_spelling(name)] = value

    def get(self, name: str, default: Any = None) -> Any:
        """As every mapping's, which for a name that is missing raises and catches an exception."""
        return self.fields.get(usual_spelling(name), default)

    def __getitem__(self, name: str) -> str:
        return self.fields[usual_spelling(name)]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and usual_spelling(name) in self.fields

    def __setitem__(self, name: str, value: str) -> None:
        name = usual_spelling(name)
        self.fields[name] = value
        if self.repeated:
            self._forget_repeated(name)

    def __delitem__(self, name: str) -> None:
        name = usual_spelling(name)
        del self.fields[name]
        self._forget_repeated(name)

    def _forget_repeated(self, name: str) -> None:
        self.repeated = {other: values for other, values in self.repeated.items() if other != name}

    def __len__(self) -> int:
        return len(self.fields)

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)


def known_headers(headers: HTTPHeaders) -> KnownHeaders:
    """The same as Tornado's `headers` say."""
    known = KnownHeaders({})
    for name, value in headers.get_all():
        known.add(name, value)
    return known


@lru_cache(1024)
def usual_spelling(name: str) -> str:
    """`content-TYPE` → `Content-Type`, as Tornado looks names up."""
    return "-".join([part.capitalize() for part in name.split("-")])


def date_now() -> str:
    """The value of `Date` (RFC 9110 §6.6.1), made once a second."""
    return _date_of(int(time.time()))


@lru_cache(2)
def _date_of(unix_seconds: int) -> str:
    return format_timestamp(unix_seconds)
