"""Documents: parsed and validated once, kept, and executed however often."""

import sys
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from inspect import isawaitable
from operator import itemgetter
from typing import Any, Generic, TypeVar, cast

from cachetools import LRUCache
from graphql import (
    DocumentNode,
    ExecutionResult,
    GraphQLError,
    GraphQLSchema,
    OperationType,
    execute,
    get_operation_ast,
    validate,
)
from strawberry.execution import optimized_is_awaitable

from resolvers.request import Request
from resolvers.tracking import admit, cut_address
from schema.coercion import named
from schema.compiled import Compiled, compiled
from schema.cost import Price, price_of
from schema.handed_out import Executor, keep_handed_out
from schema.limits import MOST_ERRORS, Limits, check, check_variables, parse
from schema.rules import RULES, RULES_WITHOUT_INTROSPECTION

MOST_DOCUMENTS = 512
MOST_BYTES = 2**25
MOST_BYTES_REFUSED = 2**20
BYTES_A_TOKEN = 1000  # of memory: graphql-core 3.3 takes up to 890


class RefusedError(Exception):
    """Nothing of the request is executed."""

    def __init__(self, errors: Sequence[GraphQLError], tokens: int = 0) -> None:
        super().__init__()
        self.errors = errors
        self.tokens = tokens


@dataclass(frozen=True)
class Document:
    """A valid document."""

    schema: GraphQLSchema
    parsed: DocumentNode
    compiled: Compiled | None
    hide_suggestions: bool
    _prices: dict[str | None, Price] = field(default_factory=dict, init=False)

    def is_mutation(self, operation_name: str | None) -> bool:
        """Whether the operation of this name, or the only one, is a mutation."""
        operation = get_operation_ast(self.parsed, operation_name)
        return operation is not None and operation.operation is OperationType.MUTATION

    async def execute(
        self, request: Request, variables: dict[str, Any] | None, operation_name: str | None
    ) -> ExecutionResult:
        """The answer; raises RefusedError where the operation or its variables are not what the document needs."""
        if self.compiled and operation_name in (None, self.compiled.operation_name):
            drafts = self.compiled.drafts(variables or {})
            if drafts is not None:
                return await self.compiled.execute(request, drafts)
        check_variables(variables or {})
        told = await self._pay(request, variables or {}, operation_name)
        answer = execute(
            self.schema,
            self.parsed,
            context_value=request,
            variable_values=variables,
            operation_name=operation_name,
            executor_class=Executor,
            is_awaitable=cast(Any, optimized_is_awaitable),
            hide_suggestions=self.hide_suggestions,
        )
        result = await answer if isawaitable(answer) else answer
        if result.data is None and result.errors and not any(error.path for error in result.errors):
            raise RefusedError([named(error, variables or {}) for error in result.errors])
        keep_handed_out(request, result.errors or ())
        result.extensions = told
        return result

    async def _pay(
        self, request: Request, variables: dict[str, Any], operation_name: str | None
    ) -> dict[str, Any] | None:
        """What the answer says of its cost; None where it has none. Raises RequestError where it is too much, or sends
        too many events."""
        price = self._prices.get(operation_name)
        if price is None:
            operation = get_operation_ast(self.parsed, operation_name)
            if operation is None:
                return None
            price = self._prices[operation_name] = price_of(self.schema, self.parsed, operation)
        if price.events:
            await admit(request, [number(variables) for number in price.events])
        cost = price.cost.of(variables)
        if not cost:
            return None
        return {"cost": await request.costs.spend(request.viewer, cut_address(request.ip_address), cost)}


Result = TypeVar("Result")


class Kept(Generic[Result]):
    """What became of the texts that came last, within so many bytes of memory, as far as they can be told."""

    def __init__(self, most_bytes: int) -> None:
        self._least_bytes = most_bytes // MOST_DOCUMENTS
        self._results: LRUCache[Hashable, tuple[int, Result]] = LRUCache(most_bytes, itemgetter(0))

    def get(self, key: Hashable) -> Result | None:
        """What became of it, where that is still known."""
        kept = self._results.get(key)
        return kept and kept[1]

    def keep(self, key: Hashable, result: Result, size: int) -> None:
        """Keep it in place of what was not asked for longest; what has too many bytes for that is not kept."""
        with suppress(ValueError):
            self._results[key] = max(self._least_bytes, size), result


def bytes_of(text: str, tokens: int) -> int:
    """The memory that a text and what was made of it take. graphql-core keeps its comments too, and counts them among
    no tokens."""
    return 2 * sys.getsizeof(text) + (tokens + text.count("#")) * BYTES_A_TOKEN


class Documents:
    """Documents by their texts: those asked for last are kept, within MOST_BYTES and MOST_DOCUMENTS; and apart from
    them, in a thirtieth of that, what was refused, so that nothing invalid drives out what is valid."""

    def __init__(self, schema: GraphQLSchema, limits: Limits) -> None:
        self._schema = schema
        self._limits = limits
        self._valid: Kept[Document] = Kept(MOST_BYTES)
        self._refused: Kept[RefusedError] = Kept(MOST_BYTES_REFUSED)

    def get(self, text: str, *, is_open: bool) -> Document:
        """The valid document of this text; raises RefusedError where there is none.

        Where it is not open, nothing tells what is in the schema: neither introspection nor suggestions.
        """
        key = text, is_open
        if document := self._valid.get(key):
            return document
        if refused := self._refused.get(key):
            raise RefusedError(refused.errors)
        try:
            document = self.read(text, is_open=is_open)
        except RefusedError as error:
            self._refused.keep(key, RefusedError(error.errors), bytes_of(text, error.tokens))
            raise
        self._valid.keep(key, document, bytes_of(text, document.parsed.token_count))
        return document

    def read(self, text: str, *, is_open: bool) -> Document:
        """The same without keeping it."""
        try:
            parsed = parse(text, self._limits)
        except GraphQLError as error:
            raise RefusedError([error.with_traceback(None)]) from None
        errors = check(parsed, self._limits) or validate(
            self._schema,
            parsed,
            RULES if is_open else RULES_WITHOUT_INTROSPECTION,
            MOST_ERRORS,
            hide_suggestions=not is_open,
            allow_empty_selection_sets=False,
        )
        if errors:
            raise RefusedError(errors, parsed.token_count)
        return Document(self._schema, parsed, compiled(parsed), hide_suggestions=not is_open)
