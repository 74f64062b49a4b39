"""Pages of a list: keyset cursors, which stay where they are whatever is inserted around them."""

import base64
import binascii
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import MAXYEAR, MINYEAR, datetime
from functools import lru_cache
from math import isfinite
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from sqlalchemy import (
    ARRAY,
    ColumnClause,
    ColumnElement,
    Integer,
    Label,
    Select,
    Uuid,
    and_,
    any_,
    bindparam,
    column,
    func,
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
from resolvers.prepared import Prepared
from resolvers.reader import AnyRow
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

    def cursor(self, row: AnyRow) -> str:
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
        """The statement's rows that are on the page, and one more where there is more; it needs `parameters`."""
        columns = self.order.columns
        if self.after is not None:
            statement = statement.where(self._beyond("after", self.order.newest_first))
        if self.before is not None:
            statement = statement.where(self._beyond("before", not self.order.newest_first))
        in_order = (each.desc() if self.descending else each.asc() for each in columns)
        return statement.order_by(*in_order).limit(bindparam("most", type_=Integer()))

    def parameters(self) -> dict[str, object]:
        """Those of `of`."""
        places = {"after": self.after or (), "before": self.before or ()}
        values = {f"{name}_{index}": value for name, place in places.items() for index, value in enumerate(place)}
        return values | {"most": self.size + 1}

    @property
    def shape(self) -> "Page":
        """The page without what its parameters say: what is made of it serves all pages of the same shape."""
        return replace(self, size=0, after=self.after and (), before=self.before and ())

    @property
    def descending(self) -> bool:
        """Whether rows are found in falling order: what is taken from the end is turned round afterwards."""
        return self.order.newest_first != self.from_end

    def _beyond(self, place: str, descending: bool) -> ColumnElement[bool]:
        columns = self.order.columns
        key = tuple_(*columns)
        values = tuple_(*(bindparam(f"{place}_{index}", type_=each.type) for index, each in enumerate(columns)))
        return key < values if descending else key > values

    def slice(self, rows: Sequence[AnyRow]) -> "Slice":
        """What `of` found, in the list's own order."""
        more = len(rows) > self.size
        shown = rows[: self.size]
        return Slice(
            self.order,
            list(reversed(shown)) if self.from_end else list(shown),
            has_next=self.before is not None if self.from_end else more,
            has_previous=more if self.from_end else self.after is not None,
        )


class Slice(NamedTuple):
    """The rows of a page, and whether there are others beside it."""

    order: Order
    rows: list[AnyRow]
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


def needs_of(needed_by: Mapping[str, Collection[str]], fields: Fields | None) -> frozenset[str]:
    """Of these columns those that the fields need, and all where none are told: by name, with the fields that need it.
    One statement serves all questions that need the same."""
    return frozenset(name for name, by in needed_by.items() if fields is None or not fields.isdisjoint(by))


def columns_of(
    always: Sequence[InstrumentedAttribute[Any]], others: Sequence[InstrumentedAttribute[Any]], needs: Collection[str]
) -> list[InstrumentedAttribute[Any] | Label[Any]]:
    """The columns; of the others that are not needed, None is read in their place."""
    return [*always, *needed(needs, **{each.key: each for each in others})]


def needed(needs: Collection[str], **columns: ColumnElement[Any] | InstrumentedAttribute[Any]) -> list[Label[Any]]:
    """The columns by these names; of one that is not needed, None is read in its place."""
    return [(column if name in needs else null()).label(name) for name, column in columns.items()]


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
    found: dict[UUID, list[AnyRow]] = {key: [] for key in subject_keys}
    wanted = _page_of_each(statement, page.shape, visible)
    parameters |= page.parameters()
    for row in await request.reader.rows(wanted, subject_keys=list(subject_keys), **parameters):
        found[row.subject_key].append(row)
    return {key: page.slice(rows) for key, rows in found.items()}


@lru_cache(maxsize=100)
def _page_of_each(statement: Select[Any], page: Page, visible: ColumnElement[bool]) -> Prepared:
    subject_key = page.order.columns[0].class_.subject_key
    asked = func.unnest(SUBJECT_KEYS).table_valued(column("subject_key", subject_key.type)).render_derived()
    theirs = page.of(statement.where(subject_key == asked.c.subject_key, visible)).lateral("theirs")
    in_order = [theirs.c[each.key].desc() if page.descending else theirs.c[each.key] for each in page.order.columns]
    return Prepared(select(theirs).select_from(asked.join(theirs, true())).order_by(*in_order))


Key = tuple[Any, ...]


async def rows_by_key(
    request: Request, statement: Select[Any], columns: Sequence[InstrumentedAttribute[Any]], keys: Sequence[Key]
) -> list[AnyRow | None]:
    """The statement's rows with these values in the columns, in the order of the keys; None where there is none."""
    asked = unnest(columns, keys)
    matches = and_(*(column == asked.c[column.key] for column in columns))
    found = await request.reader.rows(statement.join(asked, matches))
    rows = {tuple(getattr(row, column.key) for column in columns): row for row in found}
    return [rows.get(key) for key in keys]
