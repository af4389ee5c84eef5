"""Which bounds are read off a WHERE clause: never one that the clause does not set."""

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ottla_ops.query.conditions import bounds_of
from ottla_ops.query.sql_tokens import tokenize
from ottla_ops.records.selection import Bounds, Selection


def evaluate(text):
    connection = sqlite3.connect(":memory:")
    try:
        [(value,)] = connection.execute(f"select ({text})").fetchall()
    except sqlite3.Error:
        return None
    finally:
        connection.close()
    return value if isinstance(value, int) else None


def bounds(where, before="select * from flights", after=""):
    return bounds_of(tokenize(f"{before} where {where} {after}"), "flights", evaluate)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("offset = 5", Selection(offset=Bounds(5, 5))),
        ("offset == 5", Selection(offset=Bounds(5, 5))),
        ("offset < 5", Selection(offset=Bounds(high=4))),
        ("5 >= offset", Selection(offset=Bounds(high=5))),
        ("offset > 5 and offset <= 9", Selection(offset=Bounds(6, 9))),
        ("offset between 3 and 4 and key = 'a'", Selection(offset=Bounds(3, 4))),
        ("partition in (1, 3)", Selection(partition=Bounds(among=frozenset({1, 3})))),
        ('"partition" = 2 AND [offset] >= -7', Selection(Bounds(2, 2), Bounds(low=-7))),
        ("((offset > 1) and (partition = 0))", Selection(Bounds(0, 0), Bounds(low=2))),
        ("timestamp >= 10 * (60 + 1)", Selection(timestamp=Bounds(low=610))),
        ("flights.offset > 5", Selection(offset=Bounds(low=6))),
        ("offset > 5 -- and offset < 3", Selection(offset=Bounds(low=6))),
        ("offset > 5 and value like '%offset < 3%'", Selection(offset=Bounds(low=6))),
        (
            "case when key = 'a' and offset > 3 then 1 else 0 end and offset > 1",
            Selection(offset=Bounds(low=2)),
        ),
    ],
)
def test_bounds_that_are_set(where, expected):
    assert bounds(where) == expected


@pytest.mark.parametrize(
    "where",
    [
        "offset > 5 or partition = 1",
        "(offset > 5 or partition = 1) and key = 'a'",
        "not offset > 5",
        "not (offset > 5)",
        "offset + 1 > 5",
        "offset > length(key)",
        "offset > 5 collate nocase or 1",
        "offset not in (1, 2)",
        "offset not between 1 and 2",
        "offset > 5 is null",
        "offset between 1 and 2 is false",
        "(offset in (1, 2)) = 0",
        "5 < offset < 3",
        "offset < 5 < 3",
        "offset = '5'",
        "offset >= 1.5",
        "timestamp < unixepoch('now') * 1000",
        "timestamp < unixepoch('NOW') * 1000",
        "timestamp < unixepoch(x'6e6f77') * 1000",
        "timestamp < unixepoch() * 1000",
        "timestamp < unixepoch( ) * 1000",
        "timestamp < random()",
        "offset > ?",
        "other.offset > 5",
        "partition in ()",
        "partition in (1, key)",
        "offset > (1, 2)",
        "case when key = 'a' and offset > 3 and key = 'b' then 1 else 1 end",
    ],
)
def test_bounds_that_are_not(where):
    assert bounds(where) == Selection()


@pytest.mark.parametrize(
    "before",
    [
        "select * from flights, others",
        "select * from flights join others",
        "select * from flights f, others",
        "select * from others",
        "select (select 1) from flights",
        "with a as (values (1)) select * from flights",
        "values (1) union select * from flights",
    ],
)
def test_statements_of_another_shape_set_none(before):
    assert bounds("offset > 5", before) == Selection()


@pytest.mark.parametrize(
    "before",
    ["select * from flights f", "select * from main.flights as f", 'select 1 from "Flights" f'],
)
def test_an_alias_takes_the_tables_place(before):
    assert bounds("f.offset > 5", before) == Selection(offset=Bounds(low=6))
    assert bounds("flights.offset > 5", before) == Selection()


@pytest.mark.parametrize(
    "after",
    ["group by key", "order by offset > 9", "limit 3 offset 2", "having offset < 2", "; -- end"],
)
def test_what_follows_the_clause_is_no_part_of_it(after):
    assert bounds("offset > 5", after=after) == Selection(offset=Bounds(low=6))


def test_a_filter_clause_is_no_where_clause():
    sql = "select count(*) filter (where offset > 5) from flights"
    assert bounds_of(tokenize(sql), "flights", evaluate) == Selection()


def test_unixepoch_of_a_date_is_a_constant():
    found = bounds("timestamp >= unixepoch('2013-01-01') * 1000")
    assert found == Selection(timestamp=Bounds(low=1_356_998_400_000))


numbers = st.integers(-2, 8).map(str)
columns = st.sampled_from(["offset", "partition", "timestamp", "flights.offset", "key", "5"])
comparisons = st.builds(
    " ".join,
    st.tuples(columns, st.sampled_from(["<", "<=", ">", ">=", "=", "==", "!=", "<>"]), numbers),
)
flipped = st.builds(
    " ".join, st.tuples(numbers, st.sampled_from(["<", "<=", ">", ">=", "="]), columns)
)
betweens = st.builds(
    "{} {}between {} and {}".format, columns, st.sampled_from(["", "not "]), numbers, numbers
)
members = st.builds(
    "{} {}in ({})".format,
    columns,
    st.sampled_from(["", "not "]),
    st.lists(numbers, min_size=1, max_size=3).map(", ".join),
)
terms = st.recursive(
    comparisons | flipped | betweens | members,
    lambda inner: st.one_of(
        st.builds("({})".format, inner),
        st.builds("not {}".format, inner),
        st.builds("{} and {}".format, inner, inner),
        st.builds("{} or {}".format, inner, inner),
        st.builds("{} = {}".format, inner, inner),
        st.builds("case when {} then {} else {} end".format, inner, inner, inner),
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def records():
    connection = sqlite3.connect(":memory:")
    connection.execute(
        'create table flights ("offset" integer, "partition" integer, "timestamp" integer, key)'
    )
    rows = [
        (offset, partition, (offset * 5 + partition) % 8, offset % 3)
        for offset in range(7)
        for partition in range(3)
    ]
    connection.executemany("insert into flights values (?, ?, ?, ?)", rows)
    yield connection
    connection.close()


@settings(max_examples=500, deadline=None)
@given(where=terms)
def test_no_record_that_sqlite_finds_is_out_of_bounds(records, where):
    found = bounds(where)
    sql = f"select offset, partition, timestamp from flights where {where}"
    for offset, partition, timestamp in records.execute(sql):
        assert offset in found.offset, where
        assert partition in found.partition, where
        assert timestamp in found.timestamp, where
