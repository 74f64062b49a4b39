"""The limit of the reading benchmark: one statement, written by hand, that gives the same answer as JSON."""

# Of a user called `learner`; `local.today` is their local day.
TODAY = """
CROSS JOIN LATERAL (SELECT (now() AT TIME ZONE learner.time_zone)::date AS today) AS local
CROSS JOIN LATERAL (
    SELECT coalesce(max(length) FILTER (WHERE until >= local.today - 1), 0) AS current,
        coalesce(max(length), 0) AS longest, max(until) AS until, coalesce(sum(recent), 0) AS recent
    FROM (
        SELECT count(*) AS length, max(day) AS until, count(*) FILTER (WHERE day > local.today - 7) AS recent
        FROM (
            SELECT day, day - row_number() OVER (ORDER BY day)::integer AS run
            FROM daily_activity WHERE subject_key = learner.subject_key AND active
        ) AS active
        GROUP BY run
    ) AS runs
) AS streak
"""
JOURNEY = """
CROSS JOIN LATERAL (
    SELECT min(day) FILTER (WHERE kind = 'QUEST_STARTED') AS first_quest,
        count(DISTINCT quest_id) FILTER (WHERE kind = 'QUEST_STARTED') AS started,
        count(DISTINCT quest_id) FILTER (WHERE kind = 'QUEST_COMPLETED') AS completed,
        count(DISTINCT badge_id) FILTER (WHERE kind = 'BADGE_EARNED') AS badges,
        coalesce(sum(xp), 0) AS xp
    FROM learning_journey_events WHERE subject_key = learner.subject_key
) AS total
CROSS JOIN LATERAL (
    SELECT coalesce(jsonb_agg(jsonb_build_object('pillar', pillar, 'xp', xp) ORDER BY xp DESC, pillar), '[]') AS xp,
        (array_agg(pillar ORDER BY xp DESC, pillar))[1] AS favourite
    FROM (
        SELECT pillar, sum(xp) AS xp FROM learning_journey_events
        WHERE subject_key = learner.subject_key AND pillar IS NOT NULL AND xp > 0
        GROUP BY pillar
    ) AS pillar
) AS by_pillar
CROSS JOIN LATERAL (
    SELECT coalesce(sum(length), 0) / 3600000.0 AS hours
    FROM daily_activity, unnest(session_lengths) AS length WHERE subject_key = learner.subject_key
) AS spent
CROSS JOIN LATERAL (
    SELECT jsonb_build_object(
        'firstQuestDate', total.first_quest, 'totalQuestsStarted', total.started,
        'totalQuestsCompleted', total.completed, 'currentStreak', streak.current, 'badgesEarned', total.badges,
        'timeOnPlatformHours', spent.hours, 'favoritePillar', by_pillar.favourite, 'xpByPillar', by_pillar.xp,
        'totalXp', total.xp,
        'rhythm', CASE
            WHEN local.today - (learner.known_since AT TIME ZONE learner.time_zone)::date < 14 THEN 'NOT_ENOUGH_DATA'
            WHEN streak.recent >= 2 THEN 'GREEN'
            ELSE 'YELLOW'
        END
    ) AS answer
) AS journey
"""
ENGAGEMENT = """
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE active) AS active, count(*) FILTER (WHERE visited) AS visits,
        coalesce(sum(cardinality(session_lengths)), 0) AS sessions, coalesce(sum(logins), 0) AS logins
    FROM daily_activity WHERE subject_key = learner.subject_key AND day BETWEEN local.today - 29 AND local.today
) AS visited
CROSS JOIN LATERAL (
    SELECT coalesce(sum(length), 0) / 3600000.0 AS hours,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY length) FILTER (WHERE open_until <= now()) / 60000 AS median
    FROM daily_activity, unnest(session_lengths, sessions_open_until) AS session (length, open_until)
    WHERE subject_key = learner.subject_key AND day BETWEEN local.today - 29 AND local.today
) AS session
CROSS JOIN LATERAL (
    SELECT count(started) AS started, count(completed) AS completed,
        count(*) FILTER (WHERE completed > started)::double precision / nullif(count(started), 0) AS rate
    FROM (
        SELECT min(occurred_at) FILTER (WHERE kind = 'QUEST_STARTED') AS started,
            max(occurred_at) FILTER (WHERE kind = 'QUEST_COMPLETED') AS completed
        FROM learning_journey_events
        WHERE subject_key = learner.subject_key AND day BETWEEN local.today - 29 AND local.today
            AND kind IN ('QUEST_STARTED', 'QUEST_COMPLETED')
        GROUP BY quest_id
    ) AS by_quest
) AS quest
CROSS JOIN LATERAL (
    SELECT jsonb_build_object(
        'activeDays', visited.active, 'visitDays', visited.visits, 'sessions', visited.sessions,
        'medianSessionMinutes', session.median, 'timeOnPlatformHours', session.hours, 'logins', visited.logins,
        'questsStarted', quest.started, 'questsCompleted', quest.completed,
        'completionRate', CASE WHEN quest.started >= 5 THEN quest.rate END, 'currentStreak', streak.current,
        'longestStreak', streak.longest, 'lastActiveOn', streak.until
    ) AS answer
) AS engagement
"""


def events(number: int) -> str:
    """A learner's last events, newest first."""
    return f"""
CROSS JOIN LATERAL (
    SELECT coalesce(jsonb_agg(jsonb_build_object(
        'eventId', event_id, 'type', event_type, 'occurredAt', occurred_at, 'pagePath', page_path, 'data', event_data
    ) ORDER BY occurred_at DESC, event_id DESC), '[]') AS answer
    FROM (
        SELECT event_id, event_type, occurred_at, page_path, event_data FROM user_activity_events
        WHERE subject_key = learner.subject_key ORDER BY occurred_at DESC, event_id DESC LIMIT {number}
    ) AS last
) AS event
"""


OF_A_PARENT = f"""
SELECT jsonb_build_object('viewer', jsonb_build_object('children', coalesce(jsonb_agg(jsonb_build_object(
    'userId', learner.user_id, 'displayName', learner.display_name, 'journey', journey.answer,
    'events', jsonb_build_object('nodes', event.answer)
) ORDER BY learner.user_id), '[]')))
FROM users AS parent
JOIN guardianships AS link ON link.guardian_key = parent.subject_key
    AND (link.expires_at IS NULL OR link.expires_at > now())
JOIN users AS learner ON learner.subject_key = link.subject_key
{TODAY}{JOURNEY}{events(10)}
WHERE parent.user_id = $1
"""
AT_RISK = f"""
SELECT jsonb_build_object('atRiskStudents', jsonb_build_object('nodes', coalesce(jsonb_agg(jsonb_build_object(
    'user', jsonb_build_object(
        'userId', learner.user_id, 'displayName', learner.display_name, 'engagement', engagement.answer,
        'journey', journey.answer, 'events', jsonb_build_object('nodes', event.answer), 'guardians', guardian.answer
    ),
    'risk', jsonb_build_object(
        'score', risk.score,
        'engagementLevel', CASE
            WHEN risk.score < 0.3 THEN 'HIGH' WHEN risk.score < 0.6 THEN 'MEDIUM' WHEN risk.score < 0.8 THEN 'LOW'
            WHEN risk.score IS NOT NULL THEN 'AT_RISK'
        END,
        'factors', factor.answer, 'assessedAt', risk.assessed_at
    )
) ORDER BY risk.rank, risk.user_id), '[]')))
FROM (
    SELECT * FROM risk_assessments WHERE days = 30 AND rank <= -0.7 ORDER BY rank, user_id LIMIT 50
) AS risk
JOIN users AS learner ON learner.subject_key = risk.subject_key
{TODAY}{JOURNEY}{ENGAGEMENT}{events(5)}
CROSS JOIN LATERAL (
    SELECT coalesce(jsonb_agg(jsonb_build_object(
        'userId', guardian.user_id, 'displayName', guardian.display_name
    ) ORDER BY guardian.user_id), '[]') AS answer
    FROM guardianships AS link JOIN users AS guardian ON guardian.subject_key = link.guardian_key
    WHERE link.subject_key = learner.subject_key AND (link.expires_at IS NULL OR link.expires_at > now())
) AS guardian
CROSS JOIN LATERAL (
    SELECT coalesce(jsonb_agg(jsonb_build_object(
        'name', name, 'value', risk.factors -> name -> 1, 'evidence', risk.factors -> name -> 2
    ) ORDER BY place), '[]') AS answer
    FROM unnest('{{DAYS_INACTIVE,LOGIN_FREQUENCY,QUEST_COMPLETION,SESSION_DURATION,STREAK}}'::text[])
        WITH ORDINALITY AS said (name, place)
    WHERE risk.factors ? name
) AS factor
"""
