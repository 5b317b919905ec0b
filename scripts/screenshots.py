"""Makes the pictures in docs/pictures: the real gateway with five servers, one of them down, in a real Chromium.

The servers are the scripted ones of the tests, the last hour and month are made up; all that is seen of it is not.
Usage: .venv/bin/python scripts/screenshots.py [DIRECTORY]
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import sqlite3
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from playwright.sync_api import Browser, expect  # noqa: E402

from multiverse.storage.migrations import DAYS_OF_OLD_USAGE  # noqa: E402
from tests import wire  # noqa: E402
from tests.browser import PHONE, Visitor, chromium  # noqa: E402
from tests.operations import Hold, Send, Sleep  # noqa: E402
from tests.peers import PeerLoop, ScriptedPeer  # noqa: E402
from tests.processes import GatewayProcess  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
WIDE = {"width": 1280, "height": 840}
SERVERS: tuple[dict[str, Any], ...] = (
    {"model": "llama-3.2-3b", "owner_name": "Ada", "max_concurrency": 2, "tags": ["laptop"]},
    {"model": "llama-3.2-3b", "owner_name": "Ben", "max_concurrency": 4, "tags": ["gpu"]},
    {"model": "qwen2.5-coder:7b", "owner_name": "Chioma", "max_concurrency": 2},
    {"model": "gemma-3-270m", "owner_name": "Dimitri", "tags": ["raspberry pi"]},
    {"model": "mistral-7b-instruct", "owner_name": "the lab", "max_concurrency": 16, "tags": ["gpu", "lab"]},
)
DOWN = 3
CLASS = ("Ada Lovelace", "Ben Okri", "Chioma Eze", "Dimitri Ivanov", "Eva Novak", "Farid Haddad", "Grace Hopper")
ANSWER = (
    "A balanced tree keeps its left and right sides about equally deep, so that looking something up takes a number "
    "of steps that grows with the logarithm of its size. After each insertion it looks at the nodes on the way back "
    "up and rotates where one side has become too deep"
)


def made_up_hour(database: Path, registration_ids: list[str]) -> None:
    """Usage of the last hour as a class would leave it."""
    chooser = random.Random(7)
    now = datetime.now(UTC)
    rows = []
    for minute in range(60):
        busy = 6 + 5 * math.sin(minute / 8) + chooser.uniform(-2, 2)
        for _request in range(max(int(busy), 1)):
            failed = chooser.random() < (0.25 if 34 <= minute <= 38 else 0.02)
            started = now - timedelta(minutes=59 - minute, seconds=chooser.uniform(0, 30))
            first = chooser.gauss(240 + 3 * busy, 30)
            server = chooser.randrange(len(SERVERS))
            tokens = chooser.randint(40, 400)
            rows.append(
                (
                    started.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
                    SERVERS[server]["model"],
                    registration_ids[server],
                    "failed" if failed else "ok",
                    502 if failed else 200,
                    None if failed else first,
                    first + tokens * chooser.uniform(25, 40),
                    chooser.randint(30, 300),
                    0 if failed else tokens,
                )
            )
    columns = "started_at, model_name, registration_id, outcome, status, first_token_ms, total_ms, prompt_tokens"
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.executemany(
            f"INSERT INTO usage ({columns}, completion_tokens, stream, attempts, request_id, key_name, route) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1, 1, 'req-example', 'anonymous', '/v1/chat/completions')",
            rows,
        )
        connection.execute(DAYS_OF_OLD_USAGE)  # The dashboard has today's numbers from the sums of days.


def made_up_month(gateway: GatewayProcess, registration_ids: list[str]) -> None:
    """Keys for a class, and what it used on each day: less at weekends."""
    roster = "\n".join(f"{name},{name.split()[0].lower()}@example.org" for name in CLASS)
    keys = gateway.admin("POST", "/admin/keys/import", {"csv": f"name,email\n{roster}"}).json()["keys"]
    chooser = random.Random(11)
    rows = []
    for days_ago in range(30):
        day = datetime.now(UTC) - timedelta(days=days_ago)
        for key in keys:
            for server, registration_id in enumerate(registration_ids):
                if chooser.random() < (0.08 if day.weekday() >= 5 else 0.5):
                    requests, failed = chooser.randint(1, 18), chooser.random() < 0.2
                    tokens = (requests * chooser.randint(60, 300), requests * chooser.randint(100, 500), 0)
                    names = (day.strftime("%Y-%m-%d"), key["key_id"], key["name"], SERVERS[server]["model"])
                    rows.append((*names, registration_id, requests, requests - failed, int(failed), 0, 0, *tokens))
    with contextlib.closing(sqlite3.connect(gateway.directory / "gateway.db")) as connection, connection:
        connection.executemany(f"INSERT INTO usage_daily VALUES ({', '.join('?' * 13)})", rows)


def event(text: str) -> bytes:
    """One token as a server streams it."""
    return wire.chunk(wire.sse(json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]})))


def stream_slowly(peer: ScriptedPeer, hold: Hold) -> None:
    """The next answer of `peer`: words at the pace of a laptop, and then it hesitates."""
    words = ANSWER.split(" ")
    steps: list[Any] = [wire.STREAM_HEAD, Sleep(0.24)]
    for place, word in enumerate(words):
        steps += [Send(event(word if place == 0 else f" {word}")), Sleep(0.03)]
    peer.script(*steps, hold)


def take(visitor: Visitor, path: Path) -> None:
    """A picture of what is on the screen."""
    visitor.page.wait_for_timeout(400)
    visitor.page.screenshot(path=path)
    print(path.relative_to(path.parent.parent))


def photograph(browser: Browser, gateway: GatewayProcess, peers: list[ScriptedPeer], ids: list[str], to: Path) -> None:
    """All pictures."""
    wide = Visitor(browser.new_context(viewport=WIDE, color_scheme="light"), gateway)
    wide.sign_in()
    wide.open("/")
    expect(wide.page.locator("#servers tbody")).to_have_count(len(SERVERS))
    wide.page.set_viewport_size({"width": 1280, "height": 980})
    take(wide, to / "dashboard.png")
    hold = Hold()
    stream_slowly(peers[2], hold)
    wide.page.set_viewport_size(WIDE)
    wide.open(f"/playground?model={SERVERS[2]['model']}")
    expect(wide.page.get_by_label("Model", exact=True)).to_have_value(SERVERS[2]["model"])
    wide.page.get_by_label("System prompt").fill("You are a patient teacher.")
    wide.page.get_by_label("Temperature").fill("0.7")
    wide.page.get_by_label("Message", exact=True).fill("How does a balanced tree stay balanced?")
    wide.page.get_by_role("button", name="Send").click()
    expect(wide.page.locator("#conversation")).to_contain_text("rotates where", timeout=10_000)
    take(wide, to / "playground.png")
    hold.release()
    photograph_class(wide, to)
    dark = Visitor(browser.new_context(viewport=WIDE, color_scheme="dark"), gateway)
    dark.sign_in()
    dark.open(f"/servers/{ids[DOWN]}")
    expect(dark.page.locator("#timeline li").first).to_be_visible()
    take(dark, to / "server.png")
    phone = Visitor(browser.new_context(viewport=PHONE, device_scale_factor=2, has_touch=True), gateway)
    phone.sign_in()
    phone.open("/")
    expect(phone.page.locator("#servers tbody")).to_have_count(len(SERVERS))
    expect(phone.page.locator("#chart canvas")).to_be_visible()
    phone.page.evaluate("document.querySelector('#servers-card').scrollIntoView()")
    take(phone, to / "phone.png")


def photograph_class(wide: Visitor, to: Path) -> None:
    """What a teacher sees: a code for the blackboard, and who used what."""
    wide.open("/keys")
    expect(wide.page.locator("#keys tr")).to_have_count(len(CLASS))
    wide.page.get_by_role("button", name="Make a code").click()
    expect(wide.page.locator("#board")).to_be_visible()
    take(wide, to / "keys.png")
    wide.open("/usage")
    expect(wide.page.locator("#key-rows")).to_contain_text(CLASS[0])
    take(wide, to / "usage.png")


def main() -> None:
    """Start everything, take the pictures, end everything."""
    to = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    to.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as ends:
        directory = Path(ends.enter_context(tempfile.TemporaryDirectory()))
        loop = ends.enter_context(PeerLoop())
        gateway = GatewayProcess(directory, HEALTH_CHECK_INTERVAL_SECONDS=2).start()
        ends.callback(gateway.stop)
        peers = [ends.enter_context(loop.peer(fields["owner_name"])) for fields in SERVERS]
        ids = [
            gateway.register(peer, fields["model"], **{name: fields[name] for name in fields if name != "model"})
            for peer, fields in zip(peers, SERVERS, strict=True)
        ]
        made_up_hour(directory / "gateway.db", ids)
        made_up_month(gateway, ids)
        time.sleep(13)  # Some probes, so that there is something to see.
        peers[DOWN].refuse()
        time.sleep(9)
        holds = [Hold() for _stream in range(3)]
        for hold in holds:
            peers[4].script(wire.STREAM_HEAD, event("working"), hold)
        with contextlib.ExitStack() as streams:
            for _hold in holds:
                streams.enter_context(gateway.stream("mistral-7b-instruct"))
            photograph(ends.enter_context(chromium()), gateway, peers, ids, to)
        for hold in holds:
            hold.release()


if __name__ == "__main__":
    main()
