#!/usr/bin/env bash
# pyarrow==26.0.1, Python 3.11.
#
# Question: does the `total_uncompressed_size` of a Parquet file bound what its text takes in memory?
# Expected: the sizes "uncompressed" of the column chunks are about those of the columns once they are read.
# Seen:     it is the size of the *encoded* pages. 100,000 texts of 1,000 characters, all the same, are stored by a
#           dictionary: the footer says some 11 kB, and the column that is read takes 100 MB, 9,000 times as much. A
#           reader that refuses large tables by the footer lets this one pass; rows times width does not help either,
#           since the footer states no width of text. Reading with `read_dictionary` keeps it small (0.4 MB).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1
"$folder/venv/bin/python" - "$folder/text.parquet" <<'PY'
import sys

import pyarrow as pa
import pyarrow.parquet as pq

path = sys.argv[1]
pq.write_table(pa.table({"text": ["x" * 1_000] * 100_000}), path)
footer = pq.ParquetFile(path).metadata
stated = sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
chunks = sum(footer.row_group(i).column(0).total_uncompressed_size for i in range(footer.num_row_groups))
read = pq.read_table(path).nbytes
packed = pq.read_table(path, read_dictionary=["text"]).nbytes
print(f"footer: {stated:,} bytes a row group, {chunks:,} of column chunks; read: {read:,}; as a dictionary: {packed:,}")
sys.exit(0 if chunks < 100_000 < 100_000_000 < read and packed < 2_000_000 else 1)
PY
