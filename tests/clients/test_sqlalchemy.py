"""SQLAlchemy with its pool in front of ours, by psycopg, psycopg2 and asyncpg: ORM, isolation levels,
savepoints, server-side cursors, RETURNING in batches, reflection, pool_pre_ping, two-phase commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    relationship,
    selectinload,
)

from tests.clients.target import CLIENTS, SERVERS, Target

DIALECTS = ("postgresql+psycopg", "postgresql+psycopg2", "postgresql+pg8000")


class Base(DeclarativeBase):
    """The mapped classes' metadata."""


class Author(Base):
    """Somebody with books."""

    __tablename__ = "matrix_author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(50), unique=True)
    books: Mapped[list[Book]] = relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    """A book of somebody."""

    __tablename__ = "matrix_book"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(sa.ForeignKey(Author.id))
    author: Mapped[Author] = relationship(back_populates="books")


@pytest.fixture
def make_engine(target: Target) -> Iterator[Callable[..., sa.Engine]]:
    """Engines whose pool has as many connections as may be open at once in the mode."""
    size = SERVERS if target.mode == "session" else CLIENTS
    engines: list[sa.Engine] = []

    def make(dialect: str, **options: object) -> sa.Engine:
        url = target.url_for(dialect)
        engine = sa.create_engine(url, pool_size=size, max_overflow=0, **options)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.dispose()


@pytest.fixture
def schema(admin: psycopg.Connection) -> Iterator[None]:
    """The tables are gone at the end."""
    yield
    admin.execute("drop table if exists matrix_book, matrix_author")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_orm(
    target: Target, make_engine: Callable[..., sa.Engine], schema: None, dialect: str
) -> None:
    """Tables made and reflected, objects written and read by many sessions at once."""
    engine = make_engine(dialect, pool_pre_ping=True)
    Base.metadata.create_all(engine)

    def work(number: int, meet: Callable[[], object]) -> None:
        with Session(engine) as session:
            books = [Book(title=f"{number}: {i}") for i in range(20)]
            session.add(Author(name=f"author {number}", books=books))
            session.commit()
            author = session.scalars(
                sa.select(Author)
                .where(Author.name == f"author {number}")
                .options(selectinload(Author.books))
            ).one()
            assert sorted(book.title for book in author.books) == sorted(
                f"{number}: {i}" for i in range(20)
            )
            with pytest.raises(sa.exc.IntegrityError), session.begin_nested():
                session.add(Author(name=f"author {number}"))
                session.flush()
            author.books.pop()
            session.commit()

    target.crowd(work)
    with engine.connect() as connection:
        count = sa.select(sa.func.count()).select_from(Book)
        assert connection.scalar(count) == CLIENTS * 19
    reflected = sa.MetaData()
    reflected.reflect(engine, only=["matrix_book", "matrix_author"])
    (foreign,) = reflected.tables["matrix_book"].foreign_keys
    assert foreign.column is reflected.tables["matrix_author"].c.id


@pytest.mark.parametrize("dialect", DIALECTS)
def test_isolation_levels(
    make_engine: Callable[..., sa.Engine], target: Target, dialect: str
) -> None:
    """Each checkout of a connection has the level that was asked for, and no other has it.

    pg8000's dialect sets it for the session (SET SESSION CHARACTERISTICS): reset in transaction mode.
    """
    engine = make_engine(dialect)
    plain = sa.text("show transaction_isolation")
    lost = dialect.endswith("pg8000") and target.mode == "transaction"
    for level in ("SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED", "AUTOCOMMIT"):
        with engine.connect() as first, engine.connect() as second:
            first = first.execution_options(isolation_level=level)
            expected = "read committed" if lost or level == "AUTOCOMMIT" else level.lower()
            assert first.scalar(plain) == expected
            assert second.scalar(plain) == "read committed"


@pytest.mark.parametrize("dialect", DIALECTS[:2])
def test_server_side_cursors(make_engine: Callable[..., sa.Engine], dialect: str) -> None:
    """stream_results and yield_per read by a cursor of the server."""
    engine = make_engine(dialect)
    with engine.connect() as connection:
        rows = connection.execution_options(yield_per=70).execute(
            sa.text("select generate_series(1, 1000)")
        )
        assert rows.context._is_server_side
        assert [row[0] for row in rows] == list(range(1, 1001))


def test_pre_ping(
    make_engine: Callable[..., sa.Engine], target: Target, admin: psycopg.Connection
) -> None:
    """A pooled connection that was lost is replaced before it is used."""
    engine = make_engine("postgresql+psycopg", pool_pre_ping=True)
    tag = f"pinged in {target.mode} mode"
    with engine.connect() as connection:
        pid = connection.scalar(sa.text("select pg_backend_pid()"))
    admin.execute("select pg_terminate_backend(%s, 10000)", [pid])
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.literal(tag))) == tag


@pytest.mark.parametrize("dialect", DIALECTS[:2])
def test_two_phase_commit(
    make_engine: Callable[..., sa.Engine], schema: None, dialect: str
) -> None:
    """begin_twophase() prepares, commits and rolls back."""
    engine = make_engine(dialect)
    Base.metadata.create_all(engine)
    for commit in (True, False):
        with engine.connect() as connection:
            transaction = connection.begin_twophase()
            connection.execute(sa.insert(Author).values(name=f"prepared {commit}"))
            transaction.prepare()
            transaction.commit() if commit else transaction.rollback()
    with engine.connect() as connection:
        assert connection.scalars(sa.select(Author.name)).all() == ["prepared True"]


def test_asyncpg_dialect(target: Target, schema: None) -> None:
    """Sessions and streamed results by asyncpg, with the dialect's cache of prepared statements."""

    async def work() -> None:
        size = SERVERS if target.mode == "session" else CLIENTS
        engine = create_async_engine(
            target.url_for("postgresql+asyncpg"), pool_size=size, max_overflow=0, pool_pre_ping=True
        )
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        sessions = async_sessionmaker(engine)
        await asyncio.gather(*(one(sessions, number) for number in range(CLIENTS)))
        async with engine.connect() as connection:
            rows = await connection.stream(sa.text("select generate_series(1, 500)"))
            assert [row[0] async for row in rows] == list(range(1, 501))
        await engine.dispose()

    async def one(sessions: async_sessionmaker, number: int) -> None:
        for turn in range(5):
            async with sessions() as session:
                session.add(Author(name=f"{number} {turn}", books=[Book(title="one")]))
                await session.commit()
                query = sa.select(Book.title).join(Author).where(Author.name == f"{number} {turn}")
                assert (await session.scalars(query)).all() == ["one"]

    asyncio.run(work())
