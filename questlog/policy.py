"""The privacy policy, written from the settings in force: what is published is what is enforced."""

from typing import NamedTuple

from models.export import OFFERED_FOR
from questlog.settings import Settings, variable


class Kept(NamedTuple):
    """What is kept in some tables, until when it names somebody, and what becomes of it then."""

    what: str
    names: str
    afterwards: str
    tables: tuple[str, ...]


SOME_WEEKS = "{least} to {anonymize} days"
KEPT = (
    Kept(
        "events, errors and sessions",
        SOME_WEEKS,
        "without anybody's name, up to {delete} days",
        ("user_activity_events", "error_events", "user_sessions", "sealed_sessions"),
    ),
    Kept(
        "what each person adds to figures of the platform",
        SOME_WEEKS,
        "by the day, up to {delete} days",
        ("daily_contributions",),
    ),
    Kept(
        "a learner's own record: days and milestones",
        "until {delete} days after they were last seen",
        "no longer",
        ("daily_activity", "learning_journey_events"),
    ),
    Kept(
        "the risk that somebody stops coming, which is assessed anew from that record each day",
        "until the account is erased",
        "no longer",
        ("risk_assessments", "assessments_due"),
    ),
    Kept(
        "an account, as the platform told of it, with links to guardians and an objection to tracking",
        "until it is erased",
        "no longer",
        ("users", "guardianships"),
    ),
    Kept(
        "consents, revoked ones too: they say by what right events were kept",
        "until the learner's account is erased; who gave one, until theirs is",
        "no longer",
        ("consents",),
    ),
    Kept(
        "who read whose data",
        "{delete} days, or until the account is erased of whom it was; who read it, until theirs is",
        "no longer",
        ("access_log",),
    ),
    Kept("archives that somebody asked for", "{offered} days", "no longer", ("data_exports", "data_export_parts")),
    Kept("an erasure, and its signed receipt", "until it is done", "for good", ("erasures",)),
    Kept("that somebody was erased", "never", "until the platform signs them up anew", ("tombstones",)),
    Kept("a device that nobody signed in on", SOME_WEEKS, "no longer", ("devices",)),
    Kept("events that could not be stored (`questlog set-aside`)", SOME_WEEKS, "no longer", ("set_aside_events",)),
    Kept(
        "whose days are about to be derived again, and which batches were just stored",
        "for minutes, or until the worker is back",
        "no longer",
        ("dirty_spans", "stored_batches"),
    ),
    Kept("kinds of errors", "never", "until {delete} days after the last of a kind", ("error_groups",)),
    Kept(
        "the platform's figures by day, with names of pages, quests and badges",
        "never",
        "for good",
        ("page_view_analytics", "quest_analytics", "badge_analytics", "catalogue", "dirty_days"),
    ),
    Kept(
        "how many events came, and what was anonymised when",
        "never",
        "for good",
        ("intake_counts", "retention_runs", "partition_rewrites"),
    ),
)
POLICY = """\
# Privacy

Written by `questlog policy` from the settings in force. Days are of 24 hours; the clock is UTC's.

## How long something names somebody

| what | names somebody | is kept |
|---|---|---|
{kept}

Events lie in partitions of a week, from Monday on. Every day at 02:00 each week is written anew whose Monday would be
{anonymize} days old at the next 02:00, and the old files are deleted. `{anonymize_variable}` and `{delete_variable}`
set the days.

## What is left of an event

Each row gets a random key of its own, which links to nothing, and a random place. Times are cut to the hour, and the
time of arrival is gone. Gone are the user, the device, the session, the event's id, the browser, the address, the
page's title, the referrer, whatever a platform's own event held, the texts of errors, and every field that holds an id
of a person or of a conversation. Of a page's path the pattern is left: numbers, UUIDs, eight or more hexadecimal
digits, and ids of users, quests and badges become `:id`.

What makes a milestone keeps the names of its quest, task or badge, its XP and its pillar, and nothing else: a learner's
own record says the same. In all other rows these names are gone, since that record would tell whose they were. For the
same reason a session keeps neither its length nor how much happened in it, nor by what it was: where it began and
ended, and whether it was a bounce, is left.

Where one person alone was there within an hour, that hour's rows can only be theirs: on a platform that small, nothing
hides anybody.

## When somebody is erased

Their account goes at once. From then on whatever comes with the user's id is refused, until the platform signs them up
anew: for that a tombstone stays, an HMAC of the id by the installation's secret, which tells nobody who it was. All
else that is theirs or names them goes within minutes, from what waits and from every table, and from the files of all
tables with the next day's run: the receipt says by when.

What stays: the receipt, which is signed and names nobody; with others, that a guardian or an admin read their data or
gave a consent, but not who; the platform's figures of sealed days, which are sums in which nobody can be told apart;
and their id where the platform itself wrote it into a text: a path, a title, an error's message.

## What other files hold, and for how long

- Valkey's append-only file has events that were accepted until it is written anew, as each day's run has it do in the
  end: up to a day. An event that waits in the queue stays in it.
- PostgreSQL's write-ahead log has what was written until its segments are removed or written over. Those that no
  checkpoint needs any more may lie unused with what they held: all of it is gone once the server has written
  twice `max_wal_size` more (1 GB unless set), which takes minutes on a busy server, and may take weeks on a quiet one.
  An archive of it, replicas and backups are yours to bound.
- Rows that are deleted from a table without weeks, such as an archive's, lie in its file until PostgreSQL writes over
  them, or the table is written anew: in the night after anybody is erased.
- The log of Questlog names nobody.
"""


def policy(settings: Settings) -> str:
    """The whole policy, as Markdown."""
    anonymize, delete = settings.anonymize_after_days, settings.delete_after_days
    kept = "\n".join(f"| {each.what} | {each.names} | {each.afterwards} |" for each in KEPT)
    return POLICY.replace("{kept}", kept).format(
        least=anonymize - 8,
        anonymize=anonymize,
        delete=delete,
        offered=OFFERED_FOR.days,
        anonymize_variable=variable("anonymize_after_days"),
        delete_variable=variable("delete_after_days"),
    )
