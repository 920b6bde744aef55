"""Who gets to see the page: programs of this machine that know the token in its address.

The server listens on 127.0.0.1 only. Every request for the page, its connection or its download is refused with 403
unless it carries the token; a connection also has to come from the page itself, not from a page of another origin, and
belongs to a session that this server has signed. Only the widgets' own code, which is public, goes out without a token.
"""

import secrets
import socket
import webbrowser
from collections.abc import Awaitable, Callable
from typing import Any

from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document
from bokeh.server.auth_provider import AuthProvider
from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from bokeh.settings import settings
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.web import HTTPError, RequestHandler

from isthmus.errors import InputError
from isthmus.explorer.exploration import Exploration
from isthmus.explorer.page import Page

__all__ = ["Server"]

_HOST = "127.0.0.1"


class Server:
    """The page of an exploration, from its making until `close`.

    Args:
        exploration: what is shown.
        name: of the model.
        port: to listen on; 0 for one that is free.

    Attributes:
        url: of the page, with its token.

    Raises:
        InputError: the port is in use, or may not be used.

    Example:
        >>> from isthmus import fit, Recipe
        >>> from isthmus.explorer import explore
        >>> recipe = Recipe().update(flow={"latent_dim": 1}, training={"max_steps": 5})
        >>> server = Server(explore(fit([[0.0, 0.1], [1.0, 0.9], [2.1, 2.0], [3.0, 3.1]], recipe=recipe)))
        >>> server.url  # doctest: +ELLIPSIS
        'http://127.0.0.1:.../?token=...'
        >>> server.close()
    """

    def __init__(self, exploration: Exploration, *, name: str = "model", port: int = 0) -> None:
        settings.resources.set_value("server")  # whatever the environment says: nothing from outside,
        settings.allowed_ws_origin.set_value([])  # and no origin but the page's own
        token = secrets.token_urlsafe(24)
        try:
            listener = socket.create_server((_HOST, port))
        except (OSError, OverflowError) as error:
            raise InputError(f"expected a free port; got {port}: {error}; choose another --port") from error
        listener.setblocking(False)  # noqa: FBT003 (the only way to say it)
        port = listener.getsockname()[1]
        self.url = f"http://{_HOST}:{port}/?token={token}"
        page = Application(FunctionHandler(lambda doc: _show(doc, exploration, name, token)))
        application = BokehTornado(
            {"/": page},
            extra_websocket_origins=[f"{_HOST}:{port}"],
            extra_patterns=[(r"/outliers\.csv", _Outliers, {"exploration": exploration, "token": token})],
            auth_provider=_Token(token),
            secret_key=secrets.token_bytes(32),
            sign_sessions=True,
            include_headers=[],
            include_cookies=[],
        )
        http = HTTPServer(application)
        http.add_socket(listener)
        self._server = BaseServer(IOLoop.current(), application, http)
        self._server.start()

    def run(self, *, browser: bool = False) -> None:
        """Serve until Ctrl-C.

        Args:
            browser: whether to open the page.
        """
        if browser:
            self._server.io_loop.add_callback(webbrowser.open, self.url)
        try:
            self._server.io_loop.start()
        except KeyboardInterrupt:
            self.close()

    def close(self) -> None:
        """Stop listening."""
        self._server.unlisten()
        self._server.stop()


def _show(doc: Document, exploration: Exploration, name: str, token: str) -> None:
    Page(doc, exploration, name=name, token=token)


def _check(handler: RequestHandler, token: str) -> None:
    if not secrets.compare_digest(handler.get_query_argument("token", "").encode(), token.encode()):
        raise HTTPError(403, reason="expected the token that isthmus explore printed in the address")


class _Token(AuthProvider):
    """Lets in whoever has the token in the address, and refuses everyone else before anything is done."""

    def __init__(self, token: str) -> None:
        self._token = token
        super().__init__()

    @property
    def get_user_async(self) -> Callable[[Any], Awaitable[Any]]:
        """Bokeh awaits it before every answer."""

        async def user(handler: RequestHandler) -> str:
            """Whoever brings the token."""
            _check(handler, self._token)
            return "visitor"

        return user

    @property
    def login_url(self) -> str:
        """Bokeh asks for one; there is nothing to log in to, `get_user_async` has refused before."""
        return "/"


class _Outliers(RequestHandler):
    """The outliers at a share of rows, as CSV."""

    def initialize(self, exploration: Exploration, token: str) -> None:
        """Bokeh's way of handing over arguments."""
        self._exploration, self._token = exploration, token

    def get(self) -> None:
        """Answer with the table, or 400 for a share that is none."""
        _check(self, self._token)
        try:
            share = float(self.get_query_argument("share", ""))
        except ValueError as error:
            raise HTTPError(400, reason="expected a share from 0 to 1") from error
        if not 0 <= share < 1:
            raise HTTPError(400, reason="expected a share from 0 to 1")
        self.set_header("Content-Type", "text/csv; charset=utf-8")
        self.set_header("Content-Disposition", 'attachment; filename="outliers.csv"')
        self.write(self._exploration.outlier_table(share).to_csv(index=False))
