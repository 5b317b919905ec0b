"""`/` and `/health`: what a person, a load balancer or a PaaS asks first."""

from __future__ import annotations

from multiverse import __version__
from multiverse.web.handlers.base import GatewayHandler

SERVICE = "Multiverse Inference Gateway"


class RootHandler(GatewayHandler):
    """`GET /`."""

    def get(self) -> None:
        """Where everything is."""
        self.reply_json(
            {
                "name": SERVICE,
                "version": __version__,
                "description": "Shares the AI models of a class through one OpenAI-compatible address.",
                "docs": "/docs",
                "health": "/health",
                "models": "/v1/models",
            }
        )

    def head(self) -> None:
        """As GET, without the body."""
        self.get()


class HealthHandler(GatewayHandler):
    """`GET /health`: of the gateway itself, not of the servers behind it."""

    async def get(self) -> None:
        """200 while requests are taken and the store answers, else 503."""
        problem = await self.gateway.store.check()
        status = "healthy" if problem is None else "unhealthy"
        if self.gateway.draining:
            status = "draining"
        document = {
            "status": status,
            "service": SERVICE,
            "version": __version__,
            "database": "healthy" if problem is None else "unhealthy",
            "uptime_seconds": round(self.gateway.clock.monotonic() - self.gateway.started_seconds, 1),
        }
        if problem is not None:
            document["reason"] = problem
        self.reply_json(document, status=200 if status == "healthy" else 503)

    async def head(self) -> None:
        """As GET, without the body."""
        await self.get()
