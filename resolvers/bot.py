"""Programs that read the platform's pages, and whose events tell of nobody."""

from functools import lru_cache

from crawlerdetect import CrawlerDetect

MOST_REMEMBERED = 10_000
LONGEST = 512
_detector = CrawlerDetect()


def is_bot(user_agent: str) -> bool:
    """Whether CrawlerDetect's list names this user agent (crawlers, headless browsers, HTTP libraries), or it names a
    web address, as crawlers do for those who wonder, and browsers don't."""
    return _is_bot(user_agent[:LONGEST])


@lru_cache(MOST_REMEMBERED)
def _is_bot(user_agent: str) -> bool:
    return "://" in user_agent or bool(_detector.isCrawler(user_agent))
