"""Bots are known by their user agent: held against kept lists that have nothing to do with ours."""

from resolvers.bot import is_bot
from tests.weblog import user_agents


def test_no_browser_of_the_lists_is_taken_for_a_bot() -> None:
    browsers = [each["ua"] for name in ("user_agents_npm", "top_user_agents") for each in user_agents(name)]
    assert len(browsers) == 6938
    assert [agent for agent in browsers if is_bot(agent)] == []


def test_nine_bots_of_ten_are_known() -> None:
    bots = [each["ua"] for each in user_agents("crawler_user_agents")]
    assert len(bots) == 1502
    assert sum(map(is_bot, bots)) / len(bots) >= 0.9  # measured: 1,367, which is 0.910
