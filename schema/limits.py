"""How much a document may hold: one walk before validation, which may take far longer than a document is long."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import graphql
from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLSyntaxError,
    InlineFragmentNode,
    Node,
    NoFragmentCyclesRule,
    OperationDefinitionNode,
    SelectionSetNode,
    TokenKind,
    visit,
)
from graphql.validation import ASTValidationContext

from resolvers.errors import TooComplexError

LONGEST_DOCUMENT = 100_000
MOST_DEFINITIONS = 100
MOST_SPREADS = 300
MOST_DIGITS = 400
MOST_VALUES = 30_000
MOST_COMPARISONS = 2500
ARGUMENTS_WEIGH = 20
MOST_ERRORS = 10

_ABORTED = re.compile(r"Syntax Error: Document (?P<why>.*)\. Parsing aborted\.")


@dataclass(frozen=True)
class Limits:
    """The most that a document may have: lexical tokens, levels of fields, and, each fragment counted wherever it is
    spread, aliases, directives, and fields at the root."""

    tokens: int
    depth: int
    aliases: int
    directives: int
    root_fields: int


def parse(text: str, limits: Limits) -> DocumentNode:
    """The text as a document; raises GraphQLError, early where it is too long or nested too deeply."""
    if len(text) > LONGEST_DOCUMENT:
        raise too_complex("characters", LONGEST_DOCUMENT)
    try:
        return graphql.parse(
            text, max_lexical_tokens=limits.tokens, max_comments=limits.tokens, allow_empty_selection_sets=False
        )
    except GraphQLSyntaxError as error:
        if aborted := _ABORTED.fullmatch(error.message):
            raise _refused(f"the document {aborted['why']}") from None
        raise


def check(document: DocumentNode, limits: Limits) -> list[GraphQLError]:
    """Why the document is not to be validated: it exceeds a limit, or its fragments are circular and it would.

    Takes no longer than the limits allow, however fragments spread each other.
    """
    try:
        _Walk(document, limits).take()
    except GraphQLError as error:
        return _circular(document) or [error]
    return []


def check_variables(variables: Mapping[str, Any]) -> None:
    """Raise TooComplexError where they hold so much that to refuse them would take long."""
    number = 0
    level: list[Any] = [variables]
    while level:
        number += sum(map(len, level))
        if number > MOST_VALUES:
            raise TooComplexError(f"the variables hold more than {MOST_VALUES} values: send less at once")
        below = chain.from_iterable(each.values() if isinstance(each, dict) else each for each in level)
        level = [each for each in below if isinstance(each, dict | list)]


class _Walk:
    """Comes to every place of the answer once, as execution would."""

    def __init__(self, document: DocumentNode, limits: Limits) -> None:
        self._document = document
        self._definitions = document.definitions
        self._most = {
            "digits in one number": MOST_DIGITS,
            "definitions": MOST_DEFINITIONS,
            "spreads of fragments": MOST_SPREADS,
            "selections": limits.tokens,
            "levels": limits.depth,
            "aliases": limits.aliases,
            "directives": limits.directives,
            "fields at the root": limits.root_fields,
            "fields of the same name": MOST_COMPARISONS,
        }
        self._fragments = {
            each.name.value: each for each in self._definitions if isinstance(each, FragmentDefinitionNode)
        }
        self._spread: set[str] = set()
        self._counted: Counter[str] = Counter()

    def take(self) -> None:
        """Raise GraphQLError at the first limit that is exceeded."""
        self._bound("digits in one number", max(map(len, self._numbers()), default=0))
        self._bound("definitions", len(self._definitions))
        for definition in self._definitions:
            self._count_directives(definition, *(getattr(definition, "variable_definitions", None) or ()))
            if isinstance(definition, OperationDefinitionNode):
                self._go_through(definition.selection_set, 0)
        for name, fragment in self._fragments.items():
            if name not in self._spread:
                self._go_through(fragment.selection_set, 1)

    def _go_through(self, root: SelectionSetNode, level: int) -> None:
        places = [(level, [root])]
        while places:
            level, selected = places.pop()
            fields: defaultdict[str, list[FieldNode]] = defaultdict(list)
            for field in self._fields(selected):
                same = fields[(field.alias or field.name).value]
                # Validation compares each with every other, and their arguments as text.
                self._count("fields of the same name", len(same) * (ARGUMENTS_WEIGH if field.arguments else 1))
                same.append(field)
            self._bound("levels", level + 1)
            if level == 0:
                self._bound("fields at the root", len(fields))
            below = ([field.selection_set for field in same if field.selection_set] for same in fields.values())
            places += ((level + 1, sets) for sets in below if sets)

    def _fields(self, selected: Sequence[SelectionSetNode]) -> Iterator[FieldNode]:
        """All fields of a place, those of a fragment once, however often it is spread there."""
        spread: set[str] = set()
        sets: list[SelectionSetNode] = list(selected)
        while sets:
            for node in sets.pop().selections:
                self._count("selections")
                self._count_directives(node)
                if isinstance(node, FieldNode):
                    self._count("aliases", int(node.alias is not None))
                    yield node
                elif isinstance(node, InlineFragmentNode):
                    sets.append(node.selection_set)
                elif isinstance(node, FragmentSpreadNode):
                    self._count("spreads of fragments")
                    name = node.name.value
                    if name not in spread and (fragment := self._fragments.get(name)):
                        sets.append(fragment.selection_set)
                    spread.add(name)
        self._spread |= spread

    def _numbers(self) -> Iterator[str]:
        token = self._document.loc and self._document.loc.start_token
        while token:
            if token.kind in (TokenKind.INT, TokenKind.FLOAT):
                yield token.value or ""
            token = token.next

    def _count_directives(self, *nodes: Node) -> None:
        for node in nodes:
            self._count("directives", len(getattr(node, "directives", None) or ()))

    def _count(self, what: str, number: int = 1) -> None:
        self._counted[what] += number
        self._bound(what, self._counted[what])

    def _bound(self, what: str, number: int) -> None:
        if number > self._most[what]:
            raise too_complex(what, self._most[what])


def too_complex(what: str, most: int) -> GraphQLError:
    """The error of a document that has more of something than it may."""
    return _refused(f"the document has more than {most} {what}: ask for less at once")


def _refused(why: str) -> GraphQLError:
    return GraphQLError(why, original_error=TooComplexError(why))


def _circular(document: DocumentNode) -> list[GraphQLError]:
    """That fragments spread themselves, which says more than that they come to no end."""
    errors: list[GraphQLError] = []
    if len(document.definitions) <= MOST_DEFINITIONS:
        visit(document, NoFragmentCyclesRule(ASTValidationContext(document, errors.append)))
    return errors[:1]
