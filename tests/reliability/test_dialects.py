"""Text files as people's tools write them: each is read as the table that a person sees in it, and says why."""

import gzip

import pandas as pd

from isthmus.data.tables import Schema, read_table, write_table

NA = None
D1, D2 = pd.Timestamp("2024-02-03"), pd.Timestamp("2024-02-04")
AGES = [str(20 + i) for i in range(30)]

# name -> text, and the table: column -> cells, by their types too (a whole number beside a gap becomes a float)
HEADERS = {
    "names": ("a,b\n1,2.5\n3,4\n", {"a": [1, 3], "b": [2.5, 4.0]}),
    "no names": ("1,2.5\n3,4\n", {"c0": [1, 3], "c1": [2.5, 4.0]}),
    "no names, a gap": ("1,,3\n3,4,5\n", {"c0": [1, 3], "c1": [NA, 4.0], "c2": [3, 5]}),
    "no names, one row": ("1.5,2\n", {"c0": [1.5], "c1": [2]}),
    "no names, one column": ("5\n3\n4\n", {"c0": [5, 3, 4]}),
    "no names, whole above decimals by chance": ("5\n5.5\n6.25\n", {"c0": [5.0, 5.5, 6.25]}),
    "no names, text that recurs": ("5.1,x\n4.9,x\n4.7,y\n", {"c0": [5.1, 4.9, 4.7], "c1": ["x", "x", "y"]}),
    "no names, text alone": ("x,x\no,x\nx,o\n", {"c0": ["x", "o", "x"], "c1": ["x", "x", "o"]}),
    "no names, times": ("2024-02-03,1\n2024-02-04,2\n", {"c0": [D1, D2], "c1": [1, 2]}),
    "no names, a count": ("1,2,3\n4,5,6\n7,8,9\n", {"c0": [1, 4, 7], "c1": [2, 5, 8], "c2": [3, 6, 9]}),
    "no names, alike": ("1,2,3\n3,1,2\n2,3,3\n", {"c0": [1, 3, 2], "c1": [2, 1, 3], "c2": [3, 2, 3]}),
    "no names, twice the same": ("2,2\n3,1\n", {"c0": [2, 3], "c1": [2, 1]}),
    "matrix of pandas": (",0,1\n0,1.5,2.5\n1,3.5,4.5\n", {"0": [1.5, 3.5], "1": [2.5, 4.5]}),
    "matrix of pandas, whole numbers": (",0,1\n0,1,0\n1,0,1\n", {"0": [1, 0], "1": [0, 1]}),
    "matrix of pandas, rows of a split": (",0,1\n17,1,0\n4,0,1\n", {"0": [1, 0], "1": [0, 1]}),
    "matrix of pandas, without its rows": ("0,1\n1.5,2.5\n3.5,4.5\n", {"0": [1.5, 3.5], "1": [2.5, 4.5]}),
    "matrix of pandas, three columns": ("0,1,2\n7,8,9\n", {"0": [7], "1": [8], "2": [9]}),
    "rows with names": (",2019,2020\nFrance,5,6\nPeru,7,8\n", {"": ["France", "Peru"], "2019": [5, 7], "2020": [6, 8]}),
    "years above whole numbers": ("2019,2020,2021\n5,7,9\n4,4,8\n", {"2019": [5, 4], "2020": [7, 4], "2021": [9, 8]}),
    "years above decimals": ("2019,2020\n1.5,2.5\n0.5,1.25\n", {"2019": [1.5, 0.5], "2020": [2.5, 1.25]}),
    "years beside text": ("country,2019\nFrance,5\nPeru,7\n", {"country": ["France", "Peru"], "2019": [5, 7]}),
    "wavelengths": ("850,852,854\n2.6,2.7,2.5\n", {"850": [2.6], "852": [2.7], "854": [2.5]}),
    "days above numbers": ("2024-02-03,2024-02-04\n1,2\n", {"2024-02-03": [1], "2024-02-04": [2]}),
    "blanks above numbers": (",,\n1,2,3\n4,5,6\n", {"c0": [1, 4], "c1": [2, 5], "c2": [3, 6]}),
    "a count of rows": (",a\n0,1.5\n1,2.5\n", {"a": [1.5, 2.5]}),
    "a count of rows from one, as R writes it": ('"","a"\n"1",1.5\n"2",2.5\n', {"a": [1.5, 2.5]}),
    "rows of a split": (",a\n17,1.5\n3,2.5\n8,3.5\n", {"a": [1.5, 2.5, 3.5]}),
    "no count of rows": (",a\n5,1.5\n5,2.5\n", {"": [5, 5], "a": [1.5, 2.5]}),
    "a count with a name": ("id,a\n0,1.5\n1,2.5\n", {"id": [0, 1], "a": [1.5, 2.5]}),
    "names over gaps": ("a,b\nNA,1\n,2\n", {"a": [NA, NA], "b": [1, 2]}),
    "names over text": ("a,b\nx,y\nz,w\n", {"a": ["x", "z"], "b": ["y", "w"]}),
    "byte order mark": ("\ufeffa,b\n1,2\n", {"a": [1], "b": [2]}),
    "line break in a name": ('"a\nb",c\n1,2\n', {"a\nb": [1], "c": [2]}),
    "empty lines first": ("\n\na,b\n1,2\n", {"a": [1], "b": [2]}),
    "comments first": ("# made by hand\n# on a ship\na,b\n1,2\n", {"a": [1], "b": [2]}),
    "names in a comment": ("# a,b\n1,2\n", {"# a": [1], "b": [2]}),
    "windows": ("a,b\r\n1,2\r\n", {"a": [1], "b": [2]}),
}
NUMBERS = {
    "semicolons": ("a;b\n1;2.5\n", {"a": [1], "b": [2.5]}),
    "semicolons in text": ("a,b\nx;y,1\nz;w,2\n", {"a": ["x;y", "z;w"], "b": [1, 2]}),
    "tabs": ("a\tb\n1\t2,5\n", {"a": [1], "b": [2.5]}),
    "bars": ("a|b\n1|2.5\n", {"a": [1], "b": [2.5]}),
    "decimal comma": ("a;b\n1,5;2\n2,25;3\n", {"a": [1.5, 2.25], "b": [2, 3]}),
    "decimal comma, no names": ("1,5;2,5\n3,5;4,5\n", {"c0": [1.5, 3.5], "c1": [2.5, 4.5]}),
    "decimal comma in quotes": ('a,b\n"1,5",2\n"2,25",3\n', {"a": [1.5, 2.25], "b": [2, 3]}),
    "decimal comma, three digits": ("a;b\n1,234;2\n", {"a": [1.234], "b": [2]}),
    "decimal comma and exponent": ("a;b\n1,5e3;2\n-2,5E-1;3\n", {"a": [1500.0, -0.25], "b": [2, 3]}),
    "decimal comma, a gap": ("a;b\n1,5;2\n;3\n", {"a": [1.5, NA], "b": [2, 3]}),
    "points and comma": ("a;b\n1.234,5;x\n-12,25;y\n", {"a": [1234.5, -12.25], "b": ["x", "y"]}),
    "points are thousands beside decimal commas": (
        "a;b\n1.234;0,5\n12.345;1,5\n",
        {"a": [1234, 12345], "b": [0.5, 1.5]},
    ),
    "points are decimal by themselves": ("a;b\n1.234;2.345\n", {"a": [1.234], "b": [2.345]}),
    "commas beside decimal points": ("a;b\n1,234;0.5\n2,345;1.5\n", {"a": [1234, 2345], "b": [0.5, 1.5]}),
    "points beside decimal commas": ("a;b\n1.5;0,5\n2.25;1,5\n", {"a": [1.5, 2.25], "b": [0.5, 1.5]}),
    "thousands": ('a,b\n"1,234",x\n"1,234,567",y\n', {"a": [1234, 1234567], "b": ["x", "y"]}),
    "thousands and decimals": ('a,b\n"1,234.5",1\n12,2\n', {"a": [1234.5, 12.0], "b": [1, 2]}),
    "thousands after blanks": ("a,b\n1 234,1\n12,2\n", {"a": [1234, 12], "b": [1, 2]}),
    "thousands after narrow blanks": ("a;b\n1\u202f234,5;1\n12,5;2\n", {"a": [1234.5, 12.5], "b": [1, 2]}),
    "thousands after ticks": ("a,b\n1'234.5,1\n12,2\n", {"a": [1234.5, 12.0], "b": [1, 2]}),
    "plus": ("a,b\n+1.5,1\n-2,2\n", {"a": [1.5, -2.0], "b": [1, 2]}),
    "blanks around": ("a,b\n 1 ,1\n 22 ,2\n", {"a": [1, 22], "b": [1, 2]}),
    "whole at first": ("a\n" + "1\n" * 1200 + "2.5\n", {"a": [1.0] * 1200 + [2.5]}),
    "whole at first, then text": ("a\n" + "1\n" * 1200 + "x\n", {"a": ["1"] * 1200 + ["x"]}),
    "days are no numbers": ("a;b\n31.12.2023;1\n01.01.2024;2\n", {"a": ["31.12.2023", "01.01.2024"], "b": [1, 2]}),
    "lists are no numbers": ('a,b\n"1,2,3",1\n"2,3",2\n', {"a": ["1,2,3", "2,3"], "b": [1, 2]}),
    "larger than int64": ("a\n12345678901234567890\n1\n", {"a": [1.2345678901234567e19, 1.0]}),
}
GAPS = {
    **{
        f"{word!r} among numbers": (f"a,b\n1.5,x\n{word},y\n2.5,z\n", {"a": [1.5, NA, 2.5], "b": ["x", "y", "z"]})
        for word in ("?", "-", ".", "none", "<NA>", " ", "#NUM!", "n.a.", "--", "#DIV/0!", "Unknown", "NULL", "nan")
    },
    "? among whole numbers": ("a\n1\n?\n3\n", {"a": [1.0, NA, 3.0]}),
    "two words": ("a\n1\n?\n-\n3\n", {"a": [1.0, NA, NA, 3.0]}),
    "? among decimal commas": ("a;b\n1,5;1\n?;2\n", {"a": [1.5, NA], "b": [1, 2]}),
    "- among days": ("a\n2024-02-03\n-\n2024-02-04\n", {"a": [D1, pd.NaT, D2]}),
    "a word of their own": ("a\n" + "\n".join([*AGES, "weg", "weg"]), {"a": [*map(float, AGES), NA, NA]}),
    "? in text": ("a,b\nx,1\n?,2\n", {"a": ["x", "?"], "b": [1, 2]}),
    "codes with a letter": ("a\nA1\n3\n4\n5\n", {"a": ["A1", "3", "4", "5"]}),
    "floors": ("a\n1\n2\nG\n3\n1\n", {"a": ["1", "2", "G", "3", "1"]}),
    "detection limits": ("a\n" + "\n".join([*AGES, "<5"]), {"a": [*AGES, "<5"]}),
    "text with few numbers": ("a\nred\n7\nblue\nred\n", {"a": ["red", "7", "blue", "red"]}),
}
CODES = {
    "postal codes": ("a,b\n01025,1\n90210,2\n", {"a": ["01025", "90210"], "b": [1, 2]}),
    "agents": ("a,b\n007,1\n008,2\n", {"a": ["007", "008"], "b": [1, 2]}),
    "codes after the first thousand rows": ("a\n" + "11\n" * 1200 + "01\n", {"a": ["11"] * 1200 + ["01"]}),
    "codes and a gap": ("a,b\n01,1\n,2\n", {"a": ["01", NA], "b": [1, 2]}),
    "codes and ?": ("a,b\n01,1\n?,2\n", {"a": ["01", "?"], "b": [1, 2]}),
    "codes larger than int64": ("a\n00012345678901234567890\n1\n", {"a": ["00012345678901234567890", "1"]}),
    "noughts are numbers": ("a,b,c\n0,0.5,-0.5\n1,0.25,0\n", {"a": [0, 1], "b": [0.5, 0.25], "c": [-0.5, 0.0]}),
    "two noughts are a code": ("a\n00\n10\n", {"a": ["00", "10"]}),
    "padded decimals are numbers": ("a\n01.50\n00.75\n", {"a": [1.5, 0.75]}),
    "padded numbers with a sign are numbers": ("a\n-01\n002\n", {"a": [-1, 2]}),
}
DIALECTS = {**HEADERS, **NUMBERS, **GAPS, **CODES}


def cells(frame):
    """Column -> cells and their types; None for a gap."""
    return {
        name: [(type(value), value) if pd.notna(value) else None for value in series.tolist()]
        for name, series in frame.items()
    }


def expected(table):
    return {name: [None if pd.isna(v) else (type(v), v) for v in values] for name, values in table.items()}


def holds(path, text, table):
    """The file is read as the table, packed too; and each of its rows alone is read as it is among the others."""
    path.write_bytes(text.encode())
    path.with_suffix(".csv.gz").write_bytes(gzip.compress(text.encode()))
    frame = read_table(path)
    right = cells(frame) == expected(table) == cells(read_table(path.with_suffix(".csv.gz")))
    return right and list(frame.columns) == list(table)


def later_files(text, *, header):
    """The rows of a file, each as a file of its own; and a file with all of them, often enough to learn from."""
    names, rows = ("", text) if not header else text.split("\n", 1) if "\n" in text else (text, "")
    lines = rows.removesuffix("\n").split("\n")[-40:]
    top = names + "\n" if header else ""
    return [f"{top}{line}\n" for line in lines], top + 4 * "".join(f"{line}\n" for line in lines)


def is_kept(path, text):
    """Whatever was decided at the fit holds for each row alone, and for the table as isthmus writes it."""
    path.write_bytes(text.encode())
    alone, often = later_files(text, header=read_table(path).attrs["reading"]["dialect"]["header"])
    path.write_bytes(often.encode())
    frame = read_table(path)
    schema, _ = Schema.learn(frame)
    X, _ = schema.encode(frame)
    for i, content in enumerate(alone):
        path.write_bytes(content.encode())
        row, _ = schema.encode(read_table(path, schema=schema))
        if row.tolist() != X[[i]].tolist():
            return False
    write_table(schema.decode(X), path)
    again, _ = schema.encode(read_table(path, schema=schema))
    return again.tolist() == X.tolist()


FITTED = {
    name: text
    for name, (text, _) in DIALECTS.items()
    if text[0] not in "#\n" and '"a\nb"' not in text and "\r" not in text and len(text.splitlines()) > 2
}


def test_a_file_is_read_as_the_table_that_a_person_sees(tmp_path, tally):
    wrong = [name for name, case in DIALECTS.items() if not holds(tmp_path / "t.csv", *case)]
    promise = "A text file, packed or not, is read as the table that a person sees in it"
    tally("Files", promise, len(DIALECTS), len(DIALECTS) - len(wrong))
    assert wrong == []


def test_what_was_decided_at_the_fit_holds_for_later_files(tmp_path, tally):
    wrong = [name for name, text in FITTED.items() if not is_kept(tmp_path / "t.csv", text)]
    promise = "A row of a text file alone, and the table as isthmus writes it, are read as the table of the fit was"
    tally("Files", promise, len(FITTED), len(FITTED) - len(wrong))
    assert wrong == []
