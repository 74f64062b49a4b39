"""What is counted on an event's way into its table, and from there into figures."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import Counter, Histogram

COMMIT_EVENTS = Histogram(
    "questlog_commit_events",
    "Events that one group commit kept.",
    buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000),
)
COMMIT_SECONDS = Histogram(
    "questlog_commit_seconds",
    "How long a group commit took, by outcome.",
    ["outcome"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
TRANSACTION_SECONDS = Histogram(
    "questlog_transaction_seconds",
    "How long a worker took to store what several jobs brought, by outcome.",
    ["outcome"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 12),
)
EVENTS_JUDGED = Counter(
    "questlog_events_judged", "Events that were stored, a duplicate, withdrawn or set aside.", ["outcome"]
)
ROLL_UP_SECONDS = Histogram(
    "questlog_roll_up_seconds",
    "How long one transaction of roll-ups took, by outcome.",
    ["outcome"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 12),
)
SUBJECTS_DERIVED = Counter("questlog_subjects_derived", "Subjects whose figures were derived again.")


@contextmanager
def timed(histogram: Histogram) -> Iterator[None]:
    """Observe how long the block takes, and whether it is done or has failed."""
    outcome, began = "failed", perf_counter()
    try:
        yield
        outcome = "done"
    finally:
        histogram.labels(outcome).observe(perf_counter() - began)
