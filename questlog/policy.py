"""The privacy policy, written from the settings in force: what is published is what is enforced."""

from questlog.settings import Settings, variable

POLICY = """\
# Privacy

Written by `questlog policy` from the settings in force. Days are of 24 hours; the clock is UTC's.

## How long something names somebody

| what | names somebody | is kept |
|---|---|---|
| events, errors and sessions | {least} to {anonymize} days | without anybody's name, up to {delete} days |
| what each person adds to figures of the platform | {least} to {anonymize} days | by the day, up to {delete} days |
| a learner's own record: days and milestones | until {delete} days after they were last seen | no longer |
| a device that nobody signed in on | {least} to {anonymize} days | no longer |
| events that could not be stored (`questlog set-aside`) | {least} to {anonymize} days | no longer |
| the platform's figures by day, with names of pages, quests and badges | never | for good |

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
same reason a session keeps neither its length nor how much happened in it.

Where one person alone was there within an hour, that hour's rows can only be theirs: on a platform that small, nothing
hides anybody.

## What other files hold, and for how long

- Valkey's append-only file has events that were accepted until it is written anew, which is asked for at the end of
  each day's run. An event that waits in the queue stays in it.
- PostgreSQL's write-ahead log has what was written until its segments are removed or written over: after two
  checkpoints, so within minutes to an hour where the server is busy, and where it is not, once it has written
  `max_wal_size` (1 GB unless set). An archive of it, replicas and backups are yours to bound.
- The log of Questlog names nobody.
"""


def policy(settings: Settings) -> str:
    """The whole policy, as Markdown."""
    anonymize, delete = "anonymize_after_days", "delete_after_days"
    return POLICY.format(
        least=settings.anonymize_after_days - 8,
        anonymize=settings.anonymize_after_days,
        delete=settings.delete_after_days,
        anonymize_variable=variable(anonymize),
        delete_variable=variable(delete),
    )
