"""`/` and `/health`: what a person, a load balancer or a PaaS asks first."""

from __future__ import annotations

from multiverse import __version__
from multiverse.web.handlers.base import GatewayHandler
from multiverse.web.handlers.pages import PageHandler

SERVICE = "Multiverse Inference Gateway"


class RootHandler(PageHandler):
    """`GET /`: the dashboard for browsers, JSON for everybody else."""

    template, title = "dashboard", "Dashboard"

    def get(self, *args: str) -> None:
        """Where everything is."""
        if "text/html" in self.request.headers.get("Accept", ""):
            super().get()
            return
        self.set_header("Vary", "Accept")
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
