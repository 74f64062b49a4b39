"""What an operation costs, known before anything runs: the objects that its answer may hold, as Shopify counts them."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLCompositeType,
    GraphQLField,
    GraphQLList,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    ListValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    ValueNode,
    VariableNode,
    get_named_type,
    get_nullable_type,
    is_abstract_type,
    is_composite_type,
    value_from_ast_untyped,
)

from resolvers.connection import DEFAULT_SIZE, LARGEST_SIZE

MUTATION = 10
FREE = ("trackEvent", "trackEvents")
"""Mutations with limits of their own: so many events a minute."""
WEIGHTLESS = ("Edge", "PageInfo")
"""How the names of types end that only hold other objects, or none."""
SIZES = ("first", "last", "limit", "ids")
"""Arguments that say how long a list is."""
LENGTHS = {"eventCounts": 9, "factors": 5, "countsByType": 3}
"""How long a list without such an argument is taken to be, by its field; any other is LENGTH."""
LENGTH = 10

Variables = Mapping[str, Any]
Size = Callable[[Variables], int]


def _one(_variables: Variables) -> int:
    return 1


@dataclass(frozen=True)
class Cost:
    """So many objects of some weight, and for each what is asked below it; where it may be of several types, of the
    one that costs most."""

    weight: int
    size: Size
    below: Sequence[Sequence["Cost"]]

    def of(self, variables: Variables) -> int:
        """In objects, with these variables as they were sent."""
        below = (sum(cost.of(variables) for cost in costs) for costs in self.below)
        return self.size(variables) * (self.weight + max(below, default=0))


def cost_of(schema: GraphQLSchema, document: DocumentNode, operation: OperationDefinitionNode) -> Cost:
    """What an operation of a valid document costs."""
    return _Reckoning(schema, document, operation).total()


class _Reckoning:
    def __init__(self, schema: GraphQLSchema, document: DocumentNode, operation: OperationDefinitionNode) -> None:
        self._schema = schema
        self._operation = operation
        self._fragments = {
            each.name.value: each for each in document.definitions if isinstance(each, FragmentDefinitionNode)
        }
        self._defaults = {each.variable.name.value: each.default_value for each in operation.variable_definitions or ()}

    def total(self) -> Cost:
        root = self._schema.get_root_type(self._operation.operation)
        return Cost(0, _one, [self._below(root, [self._operation.selection_set])] if root else [])

    def _below(
        self, parent: GraphQLObjectType, selected: Sequence[SelectionSetNode], page: Size | None = None
    ) -> list[Cost]:
        """`page` is how many entries the parent has, where it is a connection."""
        costs = []
        for nodes in self._fields(parent, selected):
            field = parent.fields.get(nodes[0].name.value)
            if field and is_composite_type(get_named_type(field.type)) and nodes[0].name.value not in FREE:
                costs.append(self._cost(parent, field, nodes, page))
        return costs

    def _cost(self, parent: GraphQLObjectType, field: GraphQLField, nodes: list[FieldNode], page: Size | None) -> Cost:
        kind = cast(GraphQLCompositeType, get_named_type(field.type))
        below = [each.selection_set for each in nodes if each.selection_set]
        is_list = isinstance(get_nullable_type(field.type), GraphQLList)
        is_connection = kind.name.endswith("Connection")
        size = self._size(field, nodes[0], DEFAULT_SIZE if is_connection else LENGTH)
        weight = MUTATION if parent is self._schema.mutation_type else int(not kind.name.endswith(WEIGHTLESS))
        return Cost(
            weight,
            (page or size) if is_list else _one,
            [self._below(each, below, size if is_connection else None) for each in self._types(kind)],
        )

    def _types(self, kind: GraphQLCompositeType) -> Sequence[GraphQLObjectType]:
        return [kind] if isinstance(kind, GraphQLObjectType) else self._schema.get_possible_types(kind)

    def _fields(self, parent: GraphQLObjectType, selected: Sequence[SelectionSetNode]) -> list[list[FieldNode]]:
        """What is selected of an object of this type: the fields that share a name in the answer together."""
        fields: defaultdict[str, list[FieldNode]] = defaultdict(list)
        spread: set[str] = set()
        sets = list(selected)
        while sets:
            for node in sets.pop().selections:
                if isinstance(node, FieldNode):
                    fields[(node.alias or node.name).value].append(node)
                elif isinstance(node, InlineFragmentNode):
                    if self._applies(node, parent):
                        sets.append(node.selection_set)
                elif isinstance(node, FragmentSpreadNode) and node.name.value not in spread:
                    spread.add(node.name.value)
                    fragment = self._fragments[node.name.value]
                    if self._applies(fragment, parent):
                        sets.append(fragment.selection_set)
        return list(fields.values())

    def _applies(self, fragment: InlineFragmentNode | FragmentDefinitionNode, parent: GraphQLObjectType) -> bool:
        if fragment.type_condition is None:
            return True
        of_type = self._schema.get_type(fragment.type_condition.name.value)
        return of_type is parent or (is_abstract_type(of_type) and self._schema.is_sub_type(of_type, parent))

    def _size(self, field: GraphQLField, node: FieldNode, otherwise: int) -> Size:
        asked = {each.name.value: each.value for each in node.arguments or ()}
        reads = [self._number(asked[name]) for name in SIZES if name in field.args and name in asked]
        own = [
            default
            for name in SIZES
            if name in field.args and isinstance(default := field.args[name].default_value, int)
        ]
        default = own[0] if own else LENGTHS.get(node.name.value, otherwise)

        def size(variables: Variables) -> int:
            return max((number for read in reads if (number := read(variables)) is not None), default=default)

        return size

    def _number(self, value: ValueNode) -> Callable[[Variables], int | None]:
        """How to read how much an argument asks for; None where it is null."""
        if isinstance(value, ListValueNode):
            length = min(len(value.values), LARGEST_SIZE)
            return lambda variables: length
        if isinstance(value, VariableNode):
            name = value.name.value
            default = _number_in(self._defaults.get(name))
            return lambda variables: _number(variables[name]) if name in variables else default
        number = _number_in(value)
        return lambda variables: number


def _number_in(literal: ValueNode | None) -> int | None:
    return None if literal is None else _number(value_from_ast_untyped(literal))


def _number(value: object) -> int | None:
    """What the resolver will refuse counts as much as it may ask for."""
    if isinstance(value, list):
        return min(len(value), LARGEST_SIZE)
    if isinstance(value, int | float):
        return int(max(0, min(value, LARGEST_SIZE)))
    return None if value is None else 1
