"""Tornado's `HTTPHeaders` built at once from what is known to be right, without its checks of every name and value.

For heads that were read strictly (front/heads.py), and for the headers that every answer of ours begins with.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from tornado.httputil import HTTPHeaders, format_timestamp

LONGEST_REMEMBERED = 64


class KnownHeaders(HTTPHeaders):
    """Headers of Tornado 6.6 with these pairs, each name once."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._as_list = {usual_spelling(name): [value] for name, value in pairs}
        self._combined_cache = {}

    @classmethod
    def of_lists(cls, values: dict[str, list[str]]) -> KnownHeaders:
        """Headers with these values by name in its usual spelling."""
        headers = cls(())
        headers._as_list = values
        return headers

    def get_all(self) -> Iterable[tuple[str, str]]:
        """All pairs."""
        return [(name, value) for name, values in self._as_list.items() for value in values]

    def lines(self) -> list[str]:
        """As they stand in a head."""
        try:
            return [f"{name}: {value}" for name, [value] in self._as_list.items()]
        except ValueError:  # One of them has several values.
            return [f"{name}: {value}" for name, value in self.get_all()]

    def get(self, name: str, default: Any = None) -> Any:
        """As every mapping's, which for a name that is missing raises and catches an exception."""
        values = self._as_list.get(usual_spelling(name))
        return default if values is None else ",".join(values)

    def __getitem__(self, name: str) -> str:
        """As Tornado's, without its second dictionary."""
        return ",".join(self._as_list[usual_spelling(name)])

    def __contains__(self, name: object) -> bool:
        """As above."""
        return isinstance(name, str) and usual_spelling(name) in self._as_list

    def __setitem__(self, name: str, value: str) -> None:
        """As above."""
        self._as_list[usual_spelling(name)] = [value]

    def set_all(self, pairs: Mapping[str, str]) -> None:
        """As `update`, for names of ours."""
        values = self._as_list
        for name, value in pairs.items():
            values[usual_spelling(name)] = [value]


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
