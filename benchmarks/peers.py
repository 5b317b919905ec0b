"""The peers, each as its makers would run it on one core: balancing in turn over the same servers, streaming, logging.

Whatever a peer has on by default stays on. All of them listen on 127.0.0.1 alone, their metrics too.
"""

from __future__ import annotations

import getpass
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.answers import CLIENT_KEY, MODEL
from benchmarks.contestants import Contestant, Site
from benchmarks.installs import Program, debian_program, python_environment, run

NGINX_CONFIG = """\
daemon off;
worker_processes 1;
{user}
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log access.log;
    client_body_temp_path bodies;
    proxy_temp_path proxied;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    client_body_buffer_size 1m;
    keepalive_requests 1000000000;
    upstream servers {{
        {servers}
        keepalive 2048;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{
            proxy_pass http://servers;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""

HAPROXY_CONFIG = """\
global
    nbthread 1
    maxconn 4096
    log stdout format raw local0 info
defaults
    mode http
    log global
    option httplog
    option http-no-delay
    http-reuse always
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend clients
    bind 127.0.0.1:{port} backlog 2048
    default_backend servers
backend servers
    balance roundrobin
    option httpchk GET /health
    {servers}
"""


class Nginx(Contestant):
    """nginx as a reverse proxy that passes every event on at once."""

    name = "nginx"
    _program = Program("")

    def prepare(self, *, allowed: bool, say: Callable[[str], None]) -> str:
        """Debian's."""
        self._program = debian_program("nginx", allowed=allowed, say=say)
        return first_version(run(["env", *as_words(self._program), "-v"]))

    def command(self, site: Site) -> list[str]:
        """One worker, and the master that keeps it."""
        servers = "\n        ".join(f"server 127.0.0.1:{port};" for port in site.server_ports)
        # The worker of a master that is root would be another user, who may not enter the site's directory.
        user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
        config = site.directory / "nginx.conf"
        config.write_text(NGINX_CONFIG.format(user=user, port=site.port, servers=servers))
        return [self._program.path, "-p", str(site.directory), "-c", str(config), "-e", "stderr"]

    def environ(self, site: Site) -> dict[str, str]:
        """The libraries that came with it."""
        return self._program.environ()


class HAProxy(Contestant):
    """HAProxy as a reverse proxy that watches its servers."""

    name = "haproxy"
    _program = Program("")

    def prepare(self, *, allowed: bool, say: Callable[[str], None]) -> str:
        """Debian's."""
        self._program = debian_program("haproxy", allowed=allowed, say=say)
        return first_version(run(["env", *as_words(self._program), "-v"]))

    def command(self, site: Site) -> list[str]:
        """One process with one thread."""
        names = enumerate(site.server_ports, start=1)
        servers = "\n    ".join(f"server server{number} 127.0.0.1:{port} check" for number, port in names)
        config = site.directory / "haproxy.cfg"
        config.write_text(HAPROXY_CONFIG.format(port=site.port, servers=servers))
        return [self._program.path, "-db", "-f", str(config)]

    def environ(self, site: Site) -> dict[str, str]:
        """The libraries that came with it."""
        return self._program.environ()


class PythonPeer(Contestant):
    """A peer that PyPI has."""

    requirement = ""
    _environment = Path()

    def prepare(self, *, allowed: bool, say: Callable[[str], None]) -> str:
        """In a virtual environment of its own."""
        self._environment = python_environment(self.name, self.requirement, allowed=allowed, say=say)
        return self.requirement.partition("==")[2]

    def program(self, name: str) -> str:
        """A program of that environment."""
        return str(self._environment / "bin" / name)


class SglangRouter(PythonPeer):
    """SGLang's router, in Rust: the one that ratios are to."""

    name = "sglang-router"
    requirement = "sglang-router==0.3.2"

    def command(self, site: Site) -> list[str]:
        """Its retries, circuit breakers, health checks and metrics are on, as they come."""
        return [
            *(self.program("python"), "-m", "sglang_router.launch_router"),
            *rust_router_options(site),
            *("--shutdown-grace-period-secs", "1"),
        ]


class VllmRouter(PythonPeer):
    """vLLM's router, in Rust, of the same descent."""

    name = "vllm-router"
    requirement = "vllm-router==0.1.17"

    def command(self, site: Site) -> list[str]:
        """Its retries, circuit breakers, health checks and metrics are on, as they come."""
        return [self.program("vllm-router"), *rust_router_options(site)]


class LiteLLM(PythonPeer):
    """LiteLLM's proxy with one worker, a master key and no database."""

    name = "litellm"
    # One exact version: two releases of this package stole credentials (1.82.7 and 1.82.8, BerriAI/litellm#24512).
    requirement = "litellm[proxy]==1.106.2"
    scale = 0.05  # at a millisecond or more per event, one core carries no more streams
    start_timeout_seconds = 120.0

    def command(self, site: Site) -> list[str]:
        """JSON is YAML, so that its configuration needs no library here."""
        models = [
            {
                "model_name": MODEL,
                "litellm_params": {"model": f"openai/{MODEL}", "api_base": f"{url}/v1", "api_key": "none"},
            }
            for url in site.server_urls
        ]
        config = site.directory / "litellm.yaml"
        config.write_text(json.dumps({"model_list": models, "general_settings": {"master_key": CLIENT_KEY}}))
        address = ["--host", "127.0.0.1", "--port", str(site.port)]
        return [self.program("litellm"), "--config", str(config), *address, "--telemetry", "False"]

    def environ(self, site: Site) -> dict[str, str]:
        """Without these it asks the internet for prices when it starts."""
        return {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}


def rust_router_options(site: Site) -> list[str]:
    """What the two Rust routers have in common."""
    return [
        *("--host", "127.0.0.1", "--port", str(site.port)),
        *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(site.second_port)),
        *("--worker-startup-check-interval", "1"),
        *("--policy", "round_robin"),
        *("--worker-urls", *site.server_urls),
    ]


def as_words(program: Program) -> list[str]:
    """Environment and path as `env` takes them."""
    return [*(f"{name}={value}" for name, value in program.environ().items()), program.path]


def first_version(text: str) -> str:
    """The first thing in a text that looks like a version."""
    found = re.search(r"\d+\.\d+[\w.+~-]*", text)
    return found.group() if found else "unknown"
