"""The printed schema by graphql-eslint's rules for schemas and for Relay."""

import json
import subprocess
from pathlib import Path

import pytest

CLIENTS = Path(__file__).parent
REPOSITORY = CLIENTS.parents[1]
SDL = (REPOSITORY / "schema" / "schema.graphql").read_text()


def found_in(sdl: str) -> set[str]:
    """The rules that the schema breaks."""
    eslint = ("node", CLIENTS / "node_modules" / "eslint" / "bin" / "eslint.js")
    options = ("--config", CLIENTS / "eslint.config.js", "--format", "json", "--stdin")
    printed = subprocess.run(
        [*eslint, *options, "--stdin-filename", REPOSITORY / "schema" / "schema.graphql"],
        input=sdl,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    ).stdout
    (result,) = json.loads(printed)
    return {message["ruleId"] or message["message"] for message in result["messages"]}


def test_the_schema_breaks_no_rule_but_those_that_are_listed() -> None:
    assert found_in(SDL) == set()


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ("  role: Role!\n", "  role_of: Role!\n", "naming-convention"),
        ('  """The entry itself."""\n  node: User!', "  node: User!", "require-description"),
        ("  edges: [UserEdge!]!", "  edges: UserEdge!", "relay-connection-types"),
        ("  title: String\n", "  title: String @deprecated\n", "require-deprecation-reason"),
    ],
)
def test_a_broken_rule_is_found(before: str, after: str, rule: str) -> None:
    assert found_in(SDL.replace(before, after)) == {f"@graphql-eslint/{rule}"}
