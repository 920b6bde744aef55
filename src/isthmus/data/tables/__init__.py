"""A user's own table as a matrix of float64 and back: files in, `Schema` in between, files out.

A table has n rows and named columns of any type; the models see X (n, D) and, where some columns condition the others,
the context C (n, C). The map between the two is learnt once, by `Schema.learn`, and `Schema.decode` inverts it exactly:

    number                 one feature, itself
    boolean                one feature, 0 or 1
    time, duration         one feature, seconds (since 1970-01-01 UTC), exact to the microsecond
    category, text         one feature a level (one-hot); argmax on the way back
    image                  one feature a number, channels first; an array (height, width[, channels]) a row
    constant, all missing  no feature; refilled on the way back
    with missing values    as above, filled with the median (no level), and a last feature: 1 where the value is missing

Columns that say where on a known surface a row is, latitude and longitude, parts of a whole or angles, become points of
that surface together, see `isthmus.data.tables.systems`, and all others but the context are left out.

Not kept are text with too many levels to encode (dropped, with a note), levels of a categorical type that never occur,
and the storage of a column (objects and Arrow types come back as the plain type of pandas).
Rows are counted from 0, as in `frame.iloc`.
"""

from isthmus.data.tables.columns import Column
from isthmus.data.tables.coordinates import Coordinates
from isthmus.data.tables.files import FORMATS, as_frame, read_table, write_table
from isthmus.data.tables.pictures import holds_images, image_files
from isthmus.data.tables.regression import Regression
from isthmus.data.tables.schema import MAX_LEVELS, Schema
from isthmus.data.tables.sizes import MOST_UNPACKED, parse_size
from isthmus.data.tables.stream import Parquet, Stream

__all__ = [
    "FORMATS",
    "MAX_LEVELS",
    "MOST_UNPACKED",
    "Column",
    "Coordinates",
    "Parquet",
    "Regression",
    "Schema",
    "Stream",
    "as_frame",
    "holds_images",
    "image_files",
    "parse_size",
    "read_table",
    "write_table",
]
