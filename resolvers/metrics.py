"""What is counted of questions and of what is sent."""

from prometheus_client import Counter

EVENTS_ACCEPTED = Counter("questlog_events_accepted", "Events that were acknowledged.")
EVENTS_REFUSED = Counter("questlog_events_refused", "Events that were refused, by the code of the reason.", ["code"])
RATE_LIMITED = Counter(
    "questlog_rate_limited", "Requests of a user, a device or an address that had sent too much.", ["kind"]
)
