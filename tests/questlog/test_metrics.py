"""/metrics tells what all processes counted and how the installation stands, on a port of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from questlog.embedded import EmbeddedServers
from tests.platform import TRACK
from tests.processes import wait_until
from tests.questlog.test_http import some
from tests.questlog.test_serve import Installation, assert_one_line, environ, questlog, serving

TELLTALE = "telltale"
Sample = tuple[str, frozenset[tuple[str, str]]]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    yield home
    shutil.rmtree((home / "servers").resolve(), ignore_errors=True)


def sample(name: str, **labels: str) -> Sample:
    return name, frozenset(labels.items())


class Scraped:
    """What a process that serves metrics tells, at the port that its log names."""

    def __init__(self, output: Path) -> None:
        lines = (json.loads(line) for line in output.read_text().splitlines() if line.startswith("{"))
        self._port = next(line["port"] for line in lines if line["message"] == "metrics are served")

    def __call__(self) -> dict[Sample, float]:
        answer = httpx.get(f"http://127.0.0.1:{self._port}/metrics", trust_env=False, timeout=10)
        assert answer.status_code == 200
        return {
            (each.name, frozenset(each.labels.items())): each.value
            for family in text_string_to_metric_families(answer.text)
            for each in family.samples
        }

    def has(self, *wanted: tuple[Sample, float]) -> bool:
        told = self()
        return all(told.get(each) == value for each, value in wanted)


def track(installation: Installation, token: str, events: list[dict[str, Any]]) -> None:
    body = {"query": TRACK, "variables": {"events": events}}
    headers = {"authorization": f"Bearer {token}", "user-agent": f"Mozilla/5.0 (X11) {TELLTALE}"}
    assert httpx.post(installation.url, json=body, headers=headers, trust_env=False).is_success


@pytest.mark.long
def test_what_all_processes_counted_is_told_and_stays_when_they_are_started_again(home: Path) -> None:
    with serving(home, "--workers", "2", QUESTLOG_METRICS_PORT="0", QUESTLOG_USER_EVENTS_PER_MINUTE="20") as running:
        scrape = Scraped(running.output)
        student = running.token("student", TELLTALE)
        events = some(10, deviceId=str(uuid4()), page={"path": f"/{TELLTALE}", "title": TELLTALE})
        refused = some(2, event={"custom": {"name": "page_view", "data": {TELLTALE: 1}}})
        track(running, student, events + refused)
        # A worker stores in one transaction what arrives together.
        wait_until(lambda: scrape.has((sample("questlog_events_judged_total", outcome="stored"), 10)))
        track(running, student, events[:5])
        track(running, student, some(50))
        body = {"query": "{ viewer { role } }"}
        httpx.post(running.url, json=body, headers={"authorization": f"Bearer {TELLTALE}"}, trust_env=False)
        httpx.get(f"{running.url}/{TELLTALE}", trust_env=False)
        counted = [
            (sample("questlog_request_seconds_count", path="/graphql", status="200", role="STUDENT"), 3),
            (sample("questlog_request_seconds_count", path="/graphql", status="401", role=""), 1),
            (sample("questlog_request_seconds_count", path="other", status="404", role=""), 1),
            (sample("questlog_events_accepted_total"), 15),
            (sample("questlog_events_refused_total", code="INVALID_PAYLOAD"), 2),
            (sample("questlog_rate_limited_total", kind="user"), 1),
            (sample("questlog_commit_seconds_count", outcome="done"), 2),
            (sample("questlog_commit_events_sum"), 15),
            (sample("questlog_transaction_seconds_count", outcome="done"), 2),
            (sample("questlog_events_judged_total", outcome="stored"), 10),
            (sample("questlog_events_judged_total", outcome="duplicate"), 5),
            (sample("questlog_ledger_events", state="accepted"), 15),
            (sample("questlog_ledger_events", state="stored"), 10),
            (sample("questlog_ledger_events", state="duplicate"), 5),
            (sample("questlog_ledger_events", state="waiting"), 0),
            (sample("questlog_ledger_events", state="set_aside"), 0),
            (sample("questlog_oldest_waiting_seconds"), 0),
            (sample("questlog_dirty_spans"), 0),
            (sample("questlog_identifiable_seconds_most"), 90 * 24 * 60 * 60),
            (sample("questlog_workers"), 1),
        ]
        wait_until(lambda: scrape.has(*counted))
        told = scrape()
        for process in ("supervisor", "api-1", "api-2", "worker", "valkey"):
            assert told[sample("questlog_process_resident_bytes", process=process)] > 2**20
        assert 0 < told[sample("questlog_oldest_identifiable_seconds")] < 60 * 60
        assert told[sample("questlog_queue_bytes_most")] == 2**30
        assert 2**18 < told[sample("questlog_queue_bytes")] < 2**30
        assert told[sample("questlog_subjects_derived_total")] >= 1
        assert not [labels for _, labels in told if TELLTALE in str(labels)]

        running.kill("questlog.asgi")
        running.kill("questlog work")
        wait_until(lambda: running.answers() and scrape.has(*counted[:11]))
        track(running, student, events[:1])
        more = (sample("questlog_request_seconds_count", path="/graphql", status="200", role="STUDENT"), 4)
        wait_until(lambda: scrape.has(more))

        (valkey,) = running.children("valkey-server")
        os.kill(valkey, signal.SIGSTOP)
        away = scrape()
        os.kill(valkey, signal.SIGCONT)
        assert sample("questlog_ledger_events", state="stored") not in away
        assert sample("questlog_queue_bytes") not in away
        assert away[sample("questlog_events_accepted_total")] >= 15
        assert away[sample("questlog_dirty_spans")] == 0


@contextmanager
def working_alone(home: Path, output: Path, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    with output.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "questlog", "work"], env=environ(home, **settings), stderr=written
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.long
async def test_a_worker_alone_has_them_too(home: Path, tmp_path: Path) -> None:
    async with EmbeddedServers(home) as servers:
        named = {"QUESTLOG_DATABASE_URL": servers.database_url, "QUESTLOG_REDIS_URL": servers.redis_url}
        named["QUESTLOG_ERASURE_SECRET"] = "a secret of more than thirty-two characters"
        assert questlog(home, "migrate", **named).returncode == 0
        output = tmp_path / "output"
        with working_alone(home, output, QUESTLOG_METRICS_PORT="0", **named) as process:
            wait_until(lambda: "metrics are served" in output.read_text(), seconds=60)
            scrape = Scraped(output)
            wait_until(lambda: scrape.has((sample("questlog_workers"), 1)))
            wait_until(lambda: scrape().get(sample("questlog_roll_up_seconds_count", outcome="done"), 0) > 0)
            assert sample("questlog_process_resident_bytes", process="worker") in scrape()
            with closing(httpx.Client(trust_env=False)) as http:
                assert http.get(f"http://127.0.0.1:{scrape._port}/graphql").status_code == 404
                taken = {"QUESTLOG_METRICS_PORT": str(scrape._port), **named}
                assert_one_line(questlog(home, "work", **taken), f"port {scrape._port} of 127.0.0.1 is taken: choose")
        assert process.returncode == 0
