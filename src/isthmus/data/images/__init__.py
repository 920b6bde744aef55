"""Images as data sets: sets by name, and grey levels as rows of real numbers and back.

A row of numbers is an image with its channels first, (channels, height, width) flattened, as convolutions of torch have
it. For files and folders of a user's own images see `isthmus.data.tables`.
"""

from isthmus.data.images.pixels import Pixels
from isthmus.data.images.sets import IMAGES

__all__ = ["IMAGES", "Pixels"]
