"""The pages, quests and badges that events have told of, each with a short number that stands for it elsewhere."""

from collections.abc import Collection, Mapping
from datetime import date
from enum import StrEnum
from typing import NamedTuple

from sqlalchemy import Integer, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, unnest


class Kind(StrEnum):
    """What an entry is."""

    PAGE = "PAGE"
    QUEST = "QUEST"
    BADGE = "BADGE"


class CatalogueEntry(Base):
    """One page, quest or badge. `name` is its path or the platform's id; `title` the one last sent of it, by UTC day
    (of two on one day the greater), and `titled_on` that day."""

    __tablename__ = "catalogue"

    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    titled_on: Mapped[date | None]
    kind: Mapped[str]
    name: Mapped[str]
    title: Mapped[str | None]


class Item(NamedTuple):
    """A page by its path, or a quest or badge by its id."""

    kind: Kind
    name: str


Title = tuple[date, str]


async def numbers_of(connection: AsyncConnection, items: Collection[Item]) -> dict[Item, int]:
    """The number of each item, made where it has none yet."""
    if not items:
        return {}
    found = await _known(connection, items)
    if missing := sorted(set(items) - found.keys()):
        # One order for everybody: two roll-ups that bring the same items never wait for each other in a circle.
        rows = unnest([CatalogueEntry.kind, CatalogueEntry.name], missing)
        await connection.execute(
            insert(CatalogueEntry)
            .from_select(rows.c.keys(), select(rows).order_by(rows.c.kind, rows.c.name))
            .on_conflict_do_nothing()
        )
        found |= await _known(connection, missing)
    return found


async def note_titles(connection: AsyncConnection, titles: Mapping[Item, Title]) -> None:
    """Keep the title of each item that has a number, and the day it was sent on, where that is the latest."""
    if not titles:
        return
    entry = CatalogueEntry
    sent = unnest(
        [entry.kind, entry.name, entry.titled_on, entry.title], [(*item, *title) for item, title in titles.items()]
    )
    same = (entry.kind == sent.c.kind, entry.name == sent.c.name)
    later = or_(
        entry.titled_on.is_(None), tuple_(entry.titled_on, entry.title) < tuple_(sent.c.titled_on, sent.c.title)
    )
    locked = select(entry.number).where(*same, later).order_by(entry.number).with_for_update(of=entry)
    if (await connection.execute(locked)).first():
        await connection.execute(
            update(entry).where(*same, later).values(titled_on=sent.c.titled_on, title=sent.c.title)
        )


async def _known(connection: AsyncConnection, items: Collection[Item]) -> dict[Item, int]:
    asked = unnest([CatalogueEntry.kind, CatalogueEntry.name], items)
    rows = await connection.execute(
        select(CatalogueEntry.kind, CatalogueEntry.name, CatalogueEntry.number).where(
            CatalogueEntry.kind == asked.c.kind, CatalogueEntry.name == asked.c.name
        )
    )
    return {Item(Kind(kind), name): number for kind, name, number in rows}
