"""What an operation costs, known before anything runs: the objects that its answer may hold, as Shopify counts them."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import ceil
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
    OperationType,
    SelectionSetNode,
    ValueNode,
    VariableNode,
    get_named_type,
    get_nullable_type,
    introspection_types,
    is_abstract_type,
    is_composite_type,
    is_introspection_type,
    value_from_ast_untyped,
)

from resolvers.connection import DEFAULT_SIZE, LARGEST_SIZE
from resolvers.engagement import LONGEST_WINDOW

MUTATION = 10
FREE = ("trackEvent", "trackEvents")
"""Mutations with limits of their own, so many events a minute, which cost only what is above FREE_AN_EVENT."""
FREE_AN_EVENT = 2
"""For each event an error and its `field`."""
WEIGHTLESS = ("Edge", "PageInfo")
"""How the names of types end that only hold other objects, or none."""
SIZES = {"first": LARGEST_SIZE, "last": LARGEST_SIZE, "limit": LARGEST_SIZE, "ids": LARGEST_SIZE}
"""Arguments that say how long a list is, and the most that each may ask for."""
DAYS = {"days": LONGEST_WINDOW}
"""The same of columns, which have an entry a day."""
LENGTHS = {"eventCounts": 9, "factors": 5, "countsByType": 3}
"""How long a list without such an argument is taken to be, by its field; any other is LENGTH."""
LENGTH = 10
LENGTHS_OF_SCHEMA = {"types": 100, "fields": 3, "directives": 5}
"""The same of what introspection lists, any other being 1: as they are on average in ours."""
VALUES = 20
"""So many values cost as much as an object: in lists of scalars, beyond the first so many of an object, and days that
figures are summed over. A JSON counts as so many."""

Variables = Mapping[str, Any]
Size = Callable[[Variables], int]


def _one(_variables: Variables) -> int:
    return 1


def _some(_variables: Variables) -> int:
    return LENGTH


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


@dataclass(frozen=True)
class Price:
    """What an operation costs, and how many events each of its fields that track is sent."""

    cost: Cost
    events: Sequence[Size]


def price_of(schema: GraphQLSchema, document: DocumentNode, operation: OperationDefinitionNode) -> Price:
    """The price of an operation of a valid document."""
    reckoning = _Reckoning(schema, document, operation)
    return Price(reckoning.total(), reckoning.events())


@dataclass(frozen=True)
class _Above:
    """What the fields above an object say of it: how many entries its lists have, where it is a connection or what a
    mutation answers, and of how many days it is."""

    entries: Size | None = None
    days: Size | None = None


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

    def events(self) -> list[Size]:
        if not (root := self._schema.mutation_type) or self._operation.operation is not OperationType.MUTATION:
            return []
        fields = self._fields(root, [self._operation.selection_set])
        return [self._entries(nodes[0]) for nodes in fields if nodes[0].name.value in FREE]

    def _below(
        self, parent: GraphQLObjectType, selected: Sequence[SelectionSetNode], above: _Above = _Above()
    ) -> list[Cost]:
        costs, values = [], 0
        for nodes in self._fields(parent, selected):
            field = self._schema.get_field(parent, nodes[0].name.value)
            if field is None:
                continue
            if is_composite_type(get_named_type(field.type)):
                costs.append(self._cost(parent, field, nodes, above))
            elif _is_list(field):
                costs.append(_values(above.days or _some))
            else:
                values += VALUES if get_named_type(field.type).name == "JSON" else 1
        if values > VALUES:
            costs.append(Cost(ceil(values / VALUES) - 1, _one, []))
        return costs

    def _cost(self, parent: GraphQLObjectType, field: GraphQLField, nodes: list[FieldNode], above: _Above) -> Cost:
        if parent is self._schema.mutation_type:
            return self._mutation(field, nodes)
        kind = cast(GraphQLCompositeType, get_named_type(field.type))
        selected = [each.selection_set for each in nodes if each.selection_set]
        is_connection = kind.name.endswith("Connection")
        size = self._size(field, nodes[0], SIZES, DEFAULT_SIZE if is_connection else _length(parent, nodes[0]))
        days = self._size(field, nodes[0], DAYS, LENGTH) if DAYS.keys() & field.args.keys() else above.days
        names_a_type = kind is introspection_types["__Type"] and not _is_list(field)
        weight = int(not (names_a_type or kind.name.endswith(WEIGHTLESS)))
        here = _Above(size if is_connection else None, days)
        below = [self._below(each, selected, here) for each in self._types(kind)]
        if _is_list(field):
            return Cost(weight, above.entries or size, below)
        sums = [_values(days)] if days and days is not above.days else []
        return Cost(weight, _one, [sums + each for each in below])

    def _mutation(self, field: GraphQLField, nodes: list[FieldNode]) -> Cost:
        """With the lists of its answer as long as those of its input."""
        kind = cast(GraphQLObjectType, get_named_type(field.type))
        inputs = self._entries(nodes[0])
        told = self._below(kind, [each.selection_set for each in nodes if each.selection_set], _Above(inputs))
        if nodes[0].name.value not in FREE:
            return Cost(MUTATION, _one, [[Cost(1, inputs, []), *told]])
        answer = Cost(0, _one, [told])
        return Cost(1, lambda variables: max(0, answer.of(variables) - FREE_AN_EVENT * inputs(variables)), [])

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

    def _size(self, field: GraphQLField, node: FieldNode, said_by: Mapping[str, int], otherwise: int) -> Size:
        """`said_by` has the arguments that say it, and the most that each may say."""
        asked = {each.name.value: each.value for each in node.arguments or ()}
        reads = [self._number(asked[name], most) for name, most in said_by.items() if name in asked]
        own = [
            default
            for name in said_by
            if name in field.args and isinstance(default := field.args[name].default_value, int)
        ]
        default = own[0] if own else otherwise

        def size(variables: Variables) -> int:
            return max((number for read in reads if (number := read(variables)) is not None), default=default)

        return size

    def _entries(self, node: FieldNode) -> Size:
        """How many entries the lists of a mutation's input have, at least 1."""
        asked = [each.value for each in node.arguments or ()]
        defaults = {
            name: value_from_ast_untyped(default) for name, default in self._defaults.items() if default is not None
        }

        def size(variables: Variables) -> int:
            known = defaults | dict(variables)
            inputs = [value_from_ast_untyped(value, known) for value in asked]
            lists = chain.from_iterable(each.values() for each in inputs if isinstance(each, dict))
            return max(1, sum(len(each) for each in lists if isinstance(each, list)))

        return size

    def _number(self, value: ValueNode, most: int) -> Callable[[Variables], int | None]:
        """How to read how much an argument asks for; None where it is null."""
        if isinstance(value, ListValueNode):
            length = len(value.values)
            return lambda variables: length
        if isinstance(value, VariableNode):
            name = value.name.value
            default = _number_in(self._defaults.get(name), most)
            return lambda variables: _number(variables[name], most) if name in variables else default
        number = _number_in(value, most)
        return lambda variables: number


def _is_list(field: GraphQLField) -> bool:
    return isinstance(get_nullable_type(field.type), GraphQLList)


def _length(parent: GraphQLObjectType, node: FieldNode) -> int:
    if is_introspection_type(parent):
        return LENGTHS_OF_SCHEMA.get(node.name.value, 1)
    return LENGTHS.get(node.name.value, LENGTH)


def _values(number: Size) -> Cost:
    """What so many values of a list of scalars cost, or days that figures are summed over."""
    return Cost(1, lambda variables: ceil(number(variables) / VALUES), [])


def _number_in(literal: ValueNode | None, most: int) -> int | None:
    return None if literal is None else _number(value_from_ast_untyped(literal), most)


def _number(value: object, most: int) -> int | None:
    """What the resolver will refuse counts as much as it may ask for, and a list as it is."""
    if isinstance(value, list):
        return len(value)
    if isinstance(value, int | float):
        return int(max(0, min(value, most)))
    return None if value is None else 1
