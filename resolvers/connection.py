"""Pages of a list: keyset cursors, which stay where they are whatever is inserted around them."""

import base64
import binascii
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, datetime
from functools import lru_cache
from math import isfinite
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import (
    ARRAY,
    ColumnClause,
    ColumnElement,
    Label,
    Row,
    Select,
    Uuid,
    and_,
    any_,
    bindparam,
    column,
    func,
    literal,
    null,
    select,
    true,
    tuple_,
)
from sqlalchemy.orm import InstrumentedAttribute

from models.base import unnest
from models.text import LARGEST_NUMBER, is_storable
from models.viewer import visible_to
from resolvers.errors import BadUserInputError
from resolvers.request import Fields, Request

DEFAULT_SIZE = 20
LARGEST_SIZE = 100

Parse = Callable[[str], Any]


def moment(text: str) -> datetime:
    """The time that a cursor or id holds; raises ValueError."""
    found = datetime.fromisoformat(text)
    if found.tzinfo is None or not MINYEAR < found.year < MAXYEAR:
        raise ValueError(text)
    return found


def word(text: object) -> str:
    """The text that a cursor or id holds; raises ValueError where no database could hold it."""
    if not (isinstance(text, str) and is_storable(text)):
        raise ValueError(text)
    return text


def number(text: str) -> float:
    """The finite number that a cursor holds; raises ValueError."""
    found = float(text)
    if not isfinite(found):
        raise ValueError(text)
    return found


def whole(text: object) -> int:
    """The number that a cursor holds; raises ValueError where no database could hold it."""
    if not (isinstance(text, str) and -LARGEST_NUMBER <= int(text) <= LARGEST_NUMBER):
        raise ValueError(text)
    return int(text)


_PARSERS: dict[type, Parse] = {datetime: moment, UUID: UUID, str: word, float: number, int: whole}


@dataclass(frozen=True, eq=False)
class Order:
    """A list's name, which its cursors carry, and the columns that it is sorted by, which no two rows share. Each is
    made once and equals itself alone, so that the questions which hold one are compared quickly."""

    name: str
    columns: tuple[InstrumentedAttribute[Any] | ColumnClause[Any], ...]
    newest_first: bool = True

    def cursor(self, row: Row[Any]) -> str:
        """The place of a row, opaque."""
        place = [self.name, *(str(getattr(row, column.key)) for column in self.columns)]
        return base64.urlsafe_b64encode(orjson.dumps(place)).decode().rstrip("=")

    def place(self, argument: str, cursor: str) -> tuple[Any, ...]:
        """The values of the columns that a cursor stands for; raises BadUserInputError naming the argument."""
        try:
            name, *values = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
            if name != self.name:
                raise ValueError(name)
            parsed = zip(self.columns, values, strict=True)
            return tuple(_PARSERS[column.type.python_type](value) for column, value in parsed)
        except (ValueError, TypeError, AttributeError, binascii.Error) as error:
            raise BadUserInputError(f"{argument} is no cursor of this list") from error


@dataclass(frozen=True)
class Page:
    """Which part of a list: so many rows from its start or its end, between two places."""

    order: Order
    size: int
    from_end: bool
    after: tuple[Any, ...] | None
    before: tuple[Any, ...] | None

    def of(self, statement: Select[Any]) -> Select[Any]:
        """The statement's rows that are on the page, and one more where there is more."""
        columns = self.order.columns
        if self.after:
            statement = statement.where(self._beyond(self.after, self.order.newest_first))
        if self.before:
            statement = statement.where(self._beyond(self.before, not self.order.newest_first))
        in_order = (each.desc() if self.descending else each.asc() for each in columns)
        return statement.order_by(*in_order).limit(self.size + 1)

    @property
    def descending(self) -> bool:
        """Whether rows are found in falling order: what is taken from the end is turned round afterwards."""
        return self.order.newest_first != self.from_end

    def _beyond(self, place: tuple[Any, ...], descending: bool) -> ColumnElement[bool]:
        key = tuple_(*self.order.columns)
        values = tuple_(*(literal(value, each.type) for value, each in zip(place, self.order.columns, strict=True)))
        return key < values if descending else key > values

    def slice(self, rows: Sequence[Row[Any]]) -> "Slice":
        """What `of` found, in the list's own order."""
        more = len(rows) > self.size
        shown = rows[: self.size]
        return Slice(
            self.order,
            list(reversed(shown)) if self.from_end else list(shown),
            has_next=self.before is not None if self.from_end else more,
            has_previous=more if self.from_end else self.after is not None,
        )


@dataclass(frozen=True)
class Slice:
    """The rows of a page, and whether there are others beside it."""

    order: Order
    rows: list[Row[Any]]
    has_next: bool
    has_previous: bool


def page(order: Order, first: int | None, after: str | None, last: int | None, before: str | None) -> Page:
    """The page that a connection's arguments ask for: the first 20 where neither `first` nor `last` is given.

    Raises BadUserInputError that names the argument and its range.
    """
    if first is not None and last is not None:
        raise BadUserInputError("give first or last, not both")
    size = check_range("first" if last is None else "last", first if last is None else last, 1, LARGEST_SIZE)
    return Page(
        order,
        size or DEFAULT_SIZE,
        last is not None,
        None if after is None else order.place("after", after),
        None if before is None else order.place("before", before),
    )


def check_range(argument: str, value: int | None, lowest: int, highest: int) -> int | None:
    """The value, where it is given and in its range, both ends included; raises BadUserInputError where it is not."""
    if value is not None and not lowest <= value <= highest:
        raise BadUserInputError(f"{argument} is {value}, and must be {lowest} to {highest}")
    return value


def columns_of(
    always: Sequence[InstrumentedAttribute[Any]], others: Sequence[InstrumentedAttribute[Any]], fields: Fields | None
) -> list[InstrumentedAttribute[Any] | Label[None]]:
    """The columns, where of `others` those that no field is named after are not read, and None; no fields read all."""
    read = [each if fields is None or each.key in fields else null().label(each.key) for each in others]
    return [*always, *read]


def needed(column: ColumnElement[Any], by: Collection[str], fields: Fields | None) -> ColumnElement[Any]:
    """The column, where any of the fields that need it is asked for; None is read in its place where none is."""
    return column if fields is None or fields & set(by) else null()


SUBJECT_KEYS = bindparam("subject_keys", type_=ARRAY(Uuid()))
"""A statement's parameter: the subjects that it is asked about."""


def is_asked(subject_key: InstrumentedAttribute[UUID]) -> ColumnElement[bool]:
    """Whether the subject is one of SUBJECT_KEYS."""
    return subject_key == any_(SUBJECT_KEYS)


async def page_of_each(
    request: Request, subject_keys: Sequence[UUID], statement: Select[Any], page: Page, **parameters: object
) -> dict[UUID, Slice]:
    """That page of each subject's rows, in one statement with these parameters: for each a look-up of no more rows than
    the page shows.

    The statement's first column must be the subject's key, and it must not be narrowed to a subject yet.
    """
    visible = visible_to(request.viewer, page.order.columns[0].class_.subject_key)
    found: dict[UUID, list[Row[Any]]] = {key: [] for key in subject_keys}
    wanted = _page_of_each(statement, page, visible)
    for row in await request.reader.rows(wanted, subject_keys=list(subject_keys), **parameters):
        found[row.subject_key].append(row)
    return {key: page.slice(rows) for key, rows in found.items()}


# To make a statement takes longer than to answer it: of those that are asked often each is made once.
@lru_cache(maxsize=100)
def _page_of_each(statement: Select[Any], page: Page, visible: ColumnElement[bool]) -> Select[Any]:
    subject_key = page.order.columns[0].class_.subject_key
    asked = func.unnest(SUBJECT_KEYS).table_valued(column("subject_key", subject_key.type)).render_derived()
    theirs = page.of(statement.where(subject_key == asked.c.subject_key, visible)).lateral("theirs")
    in_order = [theirs.c[each.key].desc() if page.descending else theirs.c[each.key] for each in page.order.columns]
    return select(theirs).select_from(asked.join(theirs, true())).order_by(*in_order)


Key = tuple[Any, ...]


async def rows_by_key(
    request: Request, statement: Select[Any], columns: Sequence[InstrumentedAttribute[Any]], keys: Sequence[Key]
) -> list[Row[Any] | None]:
    """The statement's rows with these values in the columns, in the order of the keys; None where there is none."""
    asked = unnest(columns, keys)
    matches = and_(*(column == asked.c[column.key] for column in columns))
    found = await request.reader.rows(statement.join(asked, matches))
    rows = {tuple(getattr(row, column.key) for column in columns): row for row in found}
    return [rows.get(key) for key in keys]
