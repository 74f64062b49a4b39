"""Where a value stands that GraphQL could not coerce: from the variable's or argument's name down."""

import re
from collections.abc import Mapping
from itertools import chain
from typing import Any

from graphql import (
    SKIP,
    ArgumentNode,
    GraphQLError,
    GraphQLInputType,
    Node,
    ValueNode,
    ValuesOfCorrectTypeRule,
    VariableDefinitionNode,
    VisitorAction,
)
from graphql.utilities.validate_input_value import validate_input_literal

Path = list[str | int]

# What graphql-core says where it coerces while it executes: the path stands in the message alone.
_COERCION = re.compile(r"(?:Variable|Argument) '\$?(?P<name>\w+)' has invalid value(?: at (?P<path>[\w.\[\]]+))?:")
_TOO_DEEP = "Variable values are nested too deeply."


class LiteralError(GraphQLError):
    """A value written in the document is not of its type."""

    def __init__(self, message: str, node: Node, place: Path) -> None:
        super().__init__(message, node)
        self.place = place


class LiteralsOfCorrectTypeRule(ValuesOfCorrectTypeRule):
    """The specification's rule, whose errors say where the value stands."""

    _name = ""

    def enter_argument(self, node: ArgumentNode, *_: Any) -> None:
        """Remember whose value comes next."""
        self._name = node.name.value

    def enter_variable_definition(self, node: VariableDefinitionNode, *_: Any) -> None:
        """The same for a variable's default."""
        self._name = node.variable.name.value

    def is_valid_value_node(self, node: ValueNode, input_type: GraphQLInputType | None) -> VisitorAction:
        """Report each value in the argument or default that is not of its type."""

        def report(error: GraphQLError, path: Path) -> None:
            part = next((part for part in error.nodes or () if part.loc), node)
            self.report_error(LiteralError(error.message, part, [self._name, *path]))

        if input_type:
            validate_input_literal(node, input_type, report, None, None, self.context.hide_suggestions)
        return SKIP


def named(error: GraphQLError, variables: Mapping[str, Any]) -> GraphQLError:
    """The error; that variables are too deep, with the name of the deepest."""
    if error.message != _TOO_DEEP:
        return error
    name = max(variables, key=lambda name: _levels(variables[name]))
    return GraphQLError(f"Variable '${name}' has invalid value: It is nested too deeply.")


def _levels(value: object) -> int:
    levels, level = 0, [value]
    while level:
        levels += 1
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = list(chain.from_iterable(inner))
    return levels


def place_of(error: GraphQLError) -> Path | None:
    """Where the value stands that this error is about; None where it is about none."""
    if isinstance(error, LiteralError):
        return error.place
    if coercion := _COERCION.match(error.message):
        path = [coercion["name"], *re.findall(r"\w+", coercion["path"] or "")]
        return [int(part) if part.isdecimal() else part for part in path]
    return None
