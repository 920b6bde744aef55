"""Text files: what was decided is said, can be overruled, and holds for later files; none is too wide.

The table of dialects, each with the table that a person sees in it, is in tests/reliability/test_dialects.py.
"""

import gzip

import numpy as np
import pytest

from isthmus.data.tables import Schema, read_table, write_table
from isthmus.errors import InputError

GERMAN = "name;mass;count\n" + "".join(f"{i % 3:02d};{i},5;{'?' if i == 4 else f'{i}.250'}\n" for i in range(1, 30))


@pytest.fixture
def read(tmp_path):
    """A table from the text of a file."""

    def read(text, **options):
        path = tmp_path / "t.csv"
        path.write_bytes(text.encode())
        return read_table(path, **options)

    return read


def notes(frame):
    return frame.attrs["reading"]["notes"]


SAID = {
    "a;b\n1;2\n": ["Cells are separated by ';'."],
    "a;b\n1,5;2\n": ["Cells are separated by ';'.", "Numbers are written like 1.234,5 (1): 'a'."],
    'a,b\n"1,234",2\n': ["Numbers are written like 1,234.5 (1): 'a'."],
    "1,2\n3,4\n": ["The first row is of values, as those below, so columns are called c0, c1, and so on."],
    "7,8\n1.5,2.5\n2.5,1.5\n" + 9 * "3.5,4.5\n": [
        "The first row is of names, as it differs from the rows below: '7', '8'."
    ],
    ",a\n0,1.5\n1,2.5\n": ["The first column is left out: it has no name, and numbers the rows."],
    "a,b\n007,1\n": ["Digits that begin with a zero are codes, kept as text (1): 'a'."],
    "a\n1\n?\n?\n-\n": ["Among numbers, or times, these cells are missing values (1): 'a' '?' (2), '-' (1)."],
    "a\n" + "1\n" * 40 + "<5\n": [
        "Columns of numbers are text, as these cells are none; --missing WORD makes one a missing value "
        "(1): 'a' '<5' (1)."
    ],
}


@pytest.mark.parametrize("text", SAID)
def test_what_was_decided_is_said(read, text):
    frame = read(text)
    assert list(notes(frame)) == SAID[text]
    longer = frame.iloc[[0] * 9].assign(other=range(9))
    assert Schema.learn(longer)[1][: len(SAID[text])] == SAID[text]


def test_a_plain_file_needs_no_note(read):
    assert notes(read("a,b,c\n1,2.5,x\n2,,y\n")) == ()


def test_what_a_fit_has_not_seen_is_read_as_the_fit_would_have(read):
    """A gap that is spelled in another way, a row whose numbers could be in another form, a code without its zero."""
    schema, _ = Schema.learn(read(GERMAN))
    assert schema.features == ("name=00", "name=01", "name=02", "mass", "count", "count is missing")
    later = read("name;mass;count\n02;1.234,5;-\n01;7;1.234\n", schema=schema)
    assert schema.encode(later)[0].tolist() == [[0, 0, 1, 1234.5, 15250, 1], [0, 1, 0, 7, 1234, 0]]
    plain = read("name,mass,count\n02,1.234,2.5\n", schema=schema)  # another program wrote it
    assert schema.encode(plain)[0].tolist() == [[0, 0, 1, 1.234, 2.5, 0]]
    bad = read("name;mass;count\n02;1,5;2\n02;abc;?\n", schema=schema)
    with pytest.raises(InputError, match="expected numbers in column 'mass'; got 'abc' in row 1"):
        schema.encode(bad)


def test_codes_are_sampled_as_they_were_written(read, tmp_path):
    frame = read("zip,x\n" + 3 * "01025,1.5\n90210,2.5\n00501,0.5\n")
    schema, _ = Schema.learn(frame)
    samples = schema.decode(np.eye(4)[:3] + 0.25)
    write_table(samples, tmp_path / "samples.csv")
    assert read_table(tmp_path / "samples.csv")["zip"].tolist() == ["00501", "01025", "90210"]


def test_the_user_has_the_last_word(read):
    assert read('a,b\n"1,234",2\n')["a"].tolist() == [1234]
    assert read('a,b\n"1,234",2\n', decimal=",")["a"].tolist() == [1.234]
    assert read('a,b\n"1,2",2\n"3,4",2\n')["a"].tolist() == [1.2, 3.4]
    assert read('a,b\n"1,2",2\n"3,4",2\n', decimal=".")["a"].tolist() == ["1,2", "3,4"]
    text = "a,b\n1.5,x\n<5,gone\n"
    frame = read(text, missing=["<5", "gone"])
    assert frame["a"].isna().tolist() == frame["b"].isna().tolist() == [False, True]
    schema, _ = Schema.learn(frame.iloc[[0, 1, 0, 1, 0, 1]].assign(c=range(6)))
    assert read("a,b,c\n2.5,gone,1\n", schema=schema)["b"].isna().all()
    with pytest.raises(InputError, match="expected a decimal mark"):
        read(text, decimal=";")


def test_a_header_longer_than_a_block_is_read(read):
    names = [f"gene{j:0160d}" for j in range(8_000)]
    frame = read("\n".join([",".join(names), *2 * [",".join(["1"] * 8_000)]]))
    assert frame.shape == (2, 8_000)
    assert list(frame.columns) == names


def test_a_line_longer_than_the_first_ones_is_read(read):
    long = "x" * (3 << 20)
    assert read(f"a,b\n1,y\n2,{long}\n")["b"].tolist() == ["y", long]


def test_a_packed_file_is_counted_while_it_is_unpacked(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * (4 << 20)))
    assert path.stat().st_size < 100_000
    with pytest.raises(
        InputError, match=r"expected '.*t.csv.gz' to unpack to at most 4 MiB; got at least .* allow more"
    ):
        read_table(path, max_unpacked=4 << 20)
    assert len(read_table(path)) == 4 << 20
