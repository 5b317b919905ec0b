"""From a request's head to its handler, without Tornado's detours: one dictionary instead of a walk over patterns.

The application is Tornado's in everything else. Handlers of ours are judged by `prepare` at once and answer when their
body is whole; any other kind of handler (a WebSocket, a static file) goes Tornado's own way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, cast

import tornado.web
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)

from multiverse.web.handlers.staged import StagedHandler, request_ids
from multiverse.web.request import GatewayRequest
from multiverse.web.route import Route


class GatewayApplication(tornado.web.Application):
    """Serves `routes`; `shared` is what each handler is initialized with beside its route."""

    def __init__(self, routes: Sequence[Route], shared: dict[str, Any], **settings: Any) -> None:
        rules = [(route.pattern, route.handler, {**shared, "route": route}) for route in routes]
        super().__init__(cast(Any, rules), **settings)
        self.request_ids = request_ids()
        by_path = {
            pattern: DirectRoute(self, handler, arguments)
            for route, (pattern, handler, arguments) in zip(routes, rules, strict=True)
            if route.shown == pattern and "{" not in pattern
        }
        # The route of a path that has no pattern in it; asked by the front door.
        self.direct_route = by_path.get

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Called by the HTTP server for each request."""
        return Dispatch(self, server_conn, request_conn)

    def get_handler_delegate(
        self,
        request: HTTPServerRequest,
        target_class: type[tornado.web.RequestHandler],
        target_kwargs: dict[str, Any] | None = None,
        path_args: list[bytes] | None = None,
        path_kwargs: dict[str, bytes] | None = None,
    ) -> Any:
        """As Tornado's; handlers of ours get a delegate that spares them its futures."""
        if not issubclass(target_class, StagedHandler):
            return super().get_handler_delegate(request, target_class, target_kwargs, path_args, path_kwargs)
        handler = target_class(self, cast(GatewayRequest, request), **(target_kwargs or {}))
        return HandlerDelegate(handler, path_args or (), path_kwargs)


class DirectRoute:
    """A path without a pattern: known before there is a request."""

    def __init__(self, application: GatewayApplication, handler: type[StagedHandler], shared: dict[str, Any]) -> None:
        self._application = application
        self._handler = handler
        self._shared = shared

    def handler_for(self, request: GatewayRequest) -> StagedHandler:
        """A handler of `request`."""
        return self._handler(self._application, request, **self._shared)

    def serve(
        self,
        server_conn: object,
        request_conn: HTTPConnection,
        start_line: RequestStartLine,
        headers: HTTPHeaders,
        body: bytes,
    ) -> None:
        """Serve a request that has come whole. Raises HTTPInputError for a host that is none."""
        handler = self.handler_for(GatewayRequest(request_conn, server_conn, start_line, headers))
        handler.take_head()
        handler.take_body(body)
        handler.answer()


class Dispatch(HTTPMessageDelegate):
    """One request on its way to the delegate of whoever handles it."""

    def __init__(self, application: GatewayApplication, server_conn: object, request_conn: HTTPConnection) -> None:
        self._application = application
        self._server_conn = server_conn
        self._request_conn = request_conn
        self._delegate: HTTPMessageDelegate | None = None

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """The head has come. Raises HTTPInputError for a host or a query that is none."""
        request = GatewayRequest(self._request_conn, self._server_conn, start_line, headers)
        route = self._application.direct_route(request.path)
        if route is not None:
            self._delegate = HandlerDelegate(route.handler_for(request))
        else:
            self._delegate = cast(HTTPMessageDelegate, self._application.find_handler(request))
        return self._delegate.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Some of the body has come."""
        assert self._delegate is not None
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        """The body is whole."""
        assert self._delegate is not None
        self._delegate.finish()

    def on_connection_close(self) -> None:
        """The client has left."""
        if self._delegate is not None:
            self._delegate.on_connection_close()


class HandlerDelegate(HTTPMessageDelegate):
    """Feeds one of our handlers."""

    def __init__(
        self, handler: StagedHandler, path_args: Sequence[bytes] = (), path_kwargs: Mapping[str, bytes] | None = None
    ) -> None:
        self._handler = handler
        self._path_args = path_args
        self._path_kwargs = path_kwargs

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """The head has come."""
        self._handler.take_head(self._path_args, self._path_kwargs)
        return None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Some of the body has come."""
        self._handler.data_received(chunk)
        return None

    def finish(self) -> None:
        """The body is whole."""
        self._handler.answer()

    def on_connection_close(self) -> None:
        """The client has left."""
        self._handler.on_connection_close()
