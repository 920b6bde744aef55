"""A local page to walk about in a model: map of the codes, rows and their neighbours, sliders, paths, outliers.

| module | what |
|---|---|
| `exploration` | what there is to see, as arrays |
| `tags` | tables and pictures as HTML |
| `views` | the figures: the map, and a row beside what the model makes of it |
| `page` | widgets, and what they do |
| `server` | who gets to see it: a browser of this machine that a token has let in |

All but `exploration` need the extra `explore`; the page loads nothing from anywhere else.
"""

from typing import TYPE_CHECKING

from isthmus.errors import InputError
from isthmus.explorer.exploration import Exploration, explore

if TYPE_CHECKING:
    from isthmus.explorer.server import Server

__all__ = ["Exploration", "explore", "server_class"]


def server_class() -> "type[Server]":
    """Return the class that serves a page, `isthmus.explorer.server.Server`.

    Raises:
        InputError: the extra `explore` is not installed.

    Example:
        >>> server_class().__name__
        'Server'
    """
    try:
        from isthmus.explorer.server import Server
    except ModuleNotFoundError as error:
        advice = "pip install 'isthmus[explore]'"
        raise InputError(f"expected the packages of the explorer; got no {error.name}; {advice}") from error
    return Server
