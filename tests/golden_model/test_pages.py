"""Tables between two comments of a page of the documentation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden_model import pages
from golden_model.files import InputError

CELLS = st.text(st.characters(categories=("L", "N", "P", "S"), exclude_characters="\\"), max_size=8)


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("before\n<!-- a -->\nold\n<!-- end of a -->\nbetween <!-- b --><!-- end of b --> behind\n")
    return path


@given(rows=st.lists(st.tuples(CELLS, CELLS), max_size=5))
def test_a_table_is_read_as_it_was_written(tmp_path_factory, rows):
    page = tmp_path_factory.mktemp("pages") / "page.md"
    page.write_text("<!-- a -->\n<!-- end of a -->")
    pages.put(page, a=pages.lines_of([("x", "y"), *rows]))
    assert pages.rows_of(page, "a") == [{"x": x, "y": y} for x, y in rows]


def test_what_is_around_a_table_stays(page):
    pages.put(page, a=["new"], b=["1", "2"])
    assert page.read_text() == (
        "before\n<!-- a -->\nnew\n<!-- end of a -->\nbetween <!-- b -->\n1\n2\n<!-- end of b --> behind\n"
    )


def test_a_page_without_the_comments_is_refused_and_left_alone(page):
    before = page.read_text()
    with pytest.raises(InputError, match="between <!-- c --> and <!-- end of c -->"):
        pages.put(page, a=["new"], c=["new"])
    assert page.read_text() == before
