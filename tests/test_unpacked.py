"""A compressed file is refused, before or while it is unpacked, where it unpacks to more than is allowed."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from isthmus import cli
from isthmus.data.tables import Parquet, read_table
from isthmus.data.tables.ipc import unpacked_batches
from isthmus.data.tables.pictures import write_png
from isthmus.data.tables.sizes import MOST_UNPACKED, parse_size, shown_size
from isthmus.errors import InputError

MIB = 1 << 20
ROWS = 1 << 18  # 2 MiB of float64


def npz(path):
    np.savez_compressed(path, X=np.zeros((ROWS, 1)))


def idx(path):
    header = b"\0\0\x08\x03" + np.array([ROWS // 2, 4, 4], ">u4").tobytes()
    path.write_bytes(gzip.compress(header + bytes(8 * ROWS)))


def parquet(path, values, **options):
    pq.write_table(pa.table({"a": values}), path, **options)


def text(path):
    parquet(path, pa.array(["x" * 1024] * 2048))


def numbers(path):
    parquet(path, pa.array(np.zeros(ROWS)))


def arrow(path, table, compression="zstd"):
    with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)


def feather(path):
    arrow(path, pa.table({"a": np.zeros(ROWS)}))


BOMBS = {
    "numbers.parquet": numbers,
    "text.parquet": text,
    "t.feather": feather,
    "t.npz": npz,
    "images-idx3-ubyte.gz": idx,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_compressed_table_unpacks_to_what_is_allowed_and_no_more(tmp_path, name):
    path = tmp_path / name
    BOMBS[name](path)
    assert path.stat().st_size < MIB / 4
    assert len(read_table(path, max_unpacked=4 * MIB)) in (ROWS, ROWS // 2, 2048)
    with pytest.raises(InputError, match=r"to unpack to at most 1 MiB; got at least [1-3].* --max-unpacked [24]MiB"):
        read_table(path, max_unpacked=MIB)


def test_a_folder_of_images_is_bounded_as_a_whole(tmp_path):
    for k in range(4):
        write_png(np.zeros((512, 512), np.uint8), tmp_path / f"{k}.png")
    assert len(read_table(tmp_path, max_unpacked=MIB)) == 4
    with pytest.raises(InputError, match=r"to unpack to at most 768 KiB; got at least 1 MiB; .* --max-unpacked 2MiB"):
        read_table(tmp_path, max_unpacked=768 << 10)


ARROW = {  # each unpacks to 64 MiB or more, in one batch
    "numbers": lambda: pa.array(np.zeros(32 * ROWS)),
    "text": lambda: pa.array(["x" * 1024]).take(pa.array(np.zeros(ROWS // 4, int))),
    "a dictionary": lambda: pa.DictionaryArray.from_arrays([0, 0], pa.array(["x" * (64 << 20)])),
    "runs": lambda: pa.RunEndEncodedArray.from_arrays(pa.array([32 * ROWS]), pa.array([0.5])),
    "nothing": lambda: pa.nulls(32 * ROWS),
}


FRAMES = {"lz4": b"\x04\x22\x4d\x18", "zstd": b"\x28\xb5\x2f\xfd"}  # how what is compressed begins


@pytest.mark.parametrize("compression", FRAMES)
@pytest.mark.parametrize("name", ARROW)
def test_an_arrow_file_of_one_batch_is_refused_before_it_is_unpacked(name, compression, tmp_path):
    """Nothing in it can be unpacked, so whatever tries to would say something else."""
    path = tmp_path / "t.arrow"
    arrow(path, pa.table({"a": ARROW[name]()}), compression)
    path.write_bytes(path.read_bytes().replace(FRAMES[compression], bytes(4)))
    assert path.stat().st_size < MIB
    with pytest.raises(InputError, match=r"to unpack to at most 8 MiB; got at least (32|64)\S* MiB; allow"):
        read_table(path, max_unpacked=8 * MIB)
    if name != "nothing":
        with pytest.raises(InputError, match=r"got .*(LZ4|ZSTD).*; check that its content"):
            read_table(path)


def test_the_headers_of_an_arrow_file_tell_what_pyarrow_makes_of_it(tmp_path):
    table = pa.table({"a": np.arange(999.0), "b": pa.array(["x", None, "yz"] * 333).dictionary_encode()})
    table = table.append_column("c", pa.array(["a text", "another", ""] * 333))
    for compression in (None, "lz4", "zstd"):
        arrow(tmp_path / "t.arrow", table, compression)
        batches = unpacked_batches(tmp_path / "t.arrow")
        padding = 64 * 10  # bytes that end a buffer, of which there are 8
        assert sum(batch.size for batch in batches) == pytest.approx(table.get_total_buffer_size(), abs=padding)
        assert [batch.rows for batch in batches] == [2, 999]


@pytest.mark.parametrize("verb", ["fit", "score", "encode", "decode", "evaluate", "report", "explore", "grids"])
def test_every_verb_that_reads_a_table_takes_the_bound(verb, capsys):
    assert cli.main([verb, "--help"]) == 0
    assert "--max-unpacked SIZE" in capsys.readouterr().out
    assert cli.main([verb, "a", "b", "--max-unpacked", "much"]) == 2
    assert "expected a size such as 8GiB; got 'much'" in capsys.readouterr().err


def test_the_command_line_raises_the_bound(tmp_path, capsys):
    npz(tmp_path / "t.npz")
    fit = ["fit", str(tmp_path / "t.npz"), "-o", str(tmp_path / "model"), "--max-unpacked"]
    assert cli.main([*fit, "1MiB"]) == 2
    assert "at most 1 MiB; got at least 2 MiB" in capsys.readouterr().err
    assert cli.main([*fit, "4MiB"]) == 2
    assert "expected at least one column" in capsys.readouterr().err  # all are constant


@pytest.mark.parametrize("text", ["", "-1", "1e9", "8 GX", "GiB", "nan", "9" * 400, "٣"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match="expected a size"):
        parse_size(text)


@pytest.mark.parametrize("size", [1, 1000, 1 << 10, 3 << 20, MOST_UNPACKED, 5 << 40])
def test_sizes_are_read_as_they_are_shown(size):
    assert parse_size(shown_size(size)) == size


def test_a_long_table_is_bounded_too_and_by_what_is_asked(tmp_path, capsys):
    (tmp_path / "long").mkdir()
    for k in range(2):
        pq.write_table(
            pa.table({"a": ["x" * 1024, "y"] * 1024, "b": np.arange(2048.0)}), tmp_path / "long" / f"{k}.parquet"
        )
    with pytest.raises(InputError, match=r"to unpack to at most 1 MiB; got at least .*--max-unpacked 2MiB"):
        Parquet.open(tmp_path / "long", max_unpacked=MIB).sample()
    assert len(Parquet.open(tmp_path / "long", max_unpacked=8 * MIB).sample().frame) == 4096
    asked = ["fit", str(tmp_path / "long"), "-o", str(tmp_path / "model"), "--max-unpacked", "1MiB"]
    assert cli.main(asked) == 2
    assert "to unpack to at most 1 MiB" in capsys.readouterr().err
