"""Who gets to see the page: a browser of this machine that was let in by a token, once.

The server listens on 127.0.0.1 only. A token lets in one browser and is worth nothing afterwards: it buys a cookie that
scripts cannot read and that the browser sends from the explorer's own page alone. Every request for the page, its
connection or its download is refused with 403 without that cookie; a connection also has to come from the page itself,
not from a page of another origin, and belongs to a session that this server has signed. Only the widgets' own code,
which is public, goes out without a cookie. A request for another host than this machine, such as a page elsewhere makes
once its name points here, is refused whatever it carries.

A command line can be read by every user of a machine, so a browser is not given the token there but the address of a
file that this user alone can read, which leads on and is removed as soon as the token is used. Log lines have no query.
"""

import contextlib
import os
import secrets
import socket
import tempfile
import webbrowser
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document
from bokeh.server.auth_provider import AuthProvider
from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from bokeh.settings import settings
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.web import HTTPError, RequestHandler

from isthmus.errors import InputError
from isthmus.explorer.exploration import Exploration
from isthmus.explorer.page import Page

__all__ = ["Server"]

_HOST = "127.0.0.1"
_NAMES = (_HOST, "localhost", "[::1]")  # of this machine, as browsers write them
_LOGIN = "/login"
_REDIRECT = '<!doctype html><title>isthmus explore</title><meta http-equiv="refresh" content="0; url={url}">'


class Server:
    """The page of an exploration, from its making until `close`.

    Args:
        exploration: what is shown.
        name: of the model.
        port: to listen on; 0 for one that is free.

    Attributes:
        url: of the page, for a browser that has been let in.

    Raises:
        InputError: the port is in use, or may not be used.

    Example:
        >>> from isthmus import fit, Recipe
        >>> from isthmus.explorer import explore
        >>> recipe = Recipe().update(flow={"latent_dim": 1}, training={"max_steps": 5})
        >>> server = Server(explore(fit([[0.0, 0.1], [1.0, 0.9], [2.1, 2.0], [3.0, 3.1]], recipe=recipe)))
        >>> server.url, server.one_time_url()  # doctest: +ELLIPSIS
        ('http://127.0.0.1:.../', 'http://127.0.0.1:.../login?token=...')
        >>> server.close()
    """

    def __init__(self, exploration: Exploration, *, name: str = "model", port: int = 0) -> None:
        settings.resources.set_value("server")  # whatever the environment says: nothing from outside,
        settings.allowed_ws_origin.set_value([])  # and no origin but the page's own
        try:
            listener = socket.create_server((_HOST, port))
        except (OSError, OverflowError) as error:
            raise InputError(f"expected a free port; got {port}: {error}; choose another --port") from error
        listener.setblocking(False)  # noqa: FBT003 (the only way to say it)
        port = listener.getsockname()[1]
        self.url = f"http://{_HOST}:{port}/"
        self._visitors, self._files = _Visitors(port), contextlib.ExitStack()
        page = Application(FunctionHandler(lambda doc: _show(doc, exploration, name)))
        application = _Site(
            {"/": page},
            extra_websocket_origins=[f"{host}:{port}" for host in _NAMES],
            extra_patterns=[
                (_LOGIN, _Login, {"visitors": self._visitors}),
                (r"/outliers\.csv", _Outliers, {"exploration": exploration, "visitors": self._visitors}),
            ],
            auth_provider=self._visitors,
            secret_key=secrets.token_bytes(32),
            sign_sessions=True,
            include_headers=[],
            include_cookies=[],
        )
        http = HTTPServer(application)
        http.add_socket(listener)
        self._server = BaseServer(IOLoop.current(), application, http)
        self._server.start()

    def one_time_url(self) -> str:
        """Return an address that lets one browser in, once.

        Returns:
            It, with its token.
        """
        return self._login_url(self._visitors.token())

    def open_browser(self) -> bool:
        """Open the page in the user's browser, by way of a file that no other user can read.

        Returns:
            Whether there is a browser to open it.
        """
        home = os.path.expanduser("~")  # where browsers in a sandbox may look, as they may not in /tmp
        place = home if os.access(home, os.W_OK) else None
        folder = self._files.enter_context(tempfile.TemporaryDirectory(prefix="isthmus-explorer-", dir=place))
        path = Path(folder, "open.html")
        path.touch(mode=0o600)
        path.write_text(_REDIRECT.format(url=self._login_url(self._visitors.token(self._files.close))), "utf-8")
        return webbrowser.open(path.as_uri())

    def run(self) -> None:
        """Serve until Ctrl-C."""
        try:
            self._server.io_loop.start()
        except KeyboardInterrupt:
            self.close()

    def close(self) -> None:
        """Stop listening, and remove the file for a browser that never came."""
        self._files.close()
        self._server.unlisten()
        self._server.stop()

    def _login_url(self, token: str) -> str:
        return f"{self.url.rstrip('/')}{_LOGIN}?token={token}"


def _show(doc: Document, exploration: Exploration, name: str) -> None:
    Page(doc, exploration, name=name)


class _Site(BokehTornado):
    """Answers requests for this machine alone, and keeps their queries out of the log."""

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        """Return the handler of a request, which Tornado asks for before anything else is done about it."""
        request.uri = request.path  # which is what log lines show; the arguments are parsed by now
        if request.host.lower() not in self.websocket_origins:
            return self.get_handler_delegate(request, _Elsewhere)
        return super().find_handler(request, **kwargs)


class _Elsewhere(RequestHandler):
    """What a request for another host gets."""

    def prepare(self) -> None:
        """Refuse the request, whatever its method."""
        raise HTTPError(403, reason="expected 127.0.0.1 or localhost with the port of isthmus explore as the host")


class _Visitors(AuthProvider):
    """Knows the browsers that were let in by their cookie, and those that may be by their tokens."""

    def __init__(self, port: int) -> None:
        self._cookie = f"isthmus-{port}"  # browsers keep one set of cookies for all ports
        self._password = secrets.token_urlsafe(24)
        self._tokens: dict[str, Callable[[], object]] = {}
        super().__init__()

    def token(self, used: Callable[[], object] = lambda: None) -> str:
        """Make a token that lets one browser in; `used` is called as soon as it has."""
        token = secrets.token_urlsafe(24)
        self._tokens[token] = used
        return token

    def admit(self, handler: RequestHandler) -> None:
        """Take the token of a request for the cookie, or refuse it."""
        used = self._tokens.pop(handler.get_query_argument("token", ""), None)
        if used is None:
            raise HTTPError(403, reason="this address has been used or is none; start isthmus explore again")
        used()
        handler.set_cookie(self._cookie, self._password, httponly=True, samesite="Strict")

    def check(self, handler: RequestHandler) -> None:
        """Refuse a request without the cookie."""
        cookie = handler.get_cookie(self._cookie) or ""
        if not secrets.compare_digest(cookie.encode(), self._password.encode()):
            raise HTTPError(403, reason="this browser was not let in; start isthmus explore again for an address")

    @property
    def get_user_async(self) -> Callable[[Any], Awaitable[Any]]:
        """Bokeh awaits it before every answer."""

        async def user(handler: RequestHandler) -> str:
            """Return the same name for each visitor who has the cookie, and refuse others."""
            self.check(handler)
            return "visitor"

        return user

    @property
    def login_url(self) -> str:
        """Bokeh asks for one; it sends nobody there, `get_user_async` has refused before."""
        return _LOGIN


class _Login(RequestHandler):
    """Where a token lets a browser in."""

    def initialize(self, visitors: _Visitors) -> None:
        """Keep the arguments that Bokeh hands over this way."""
        self._visitors = visitors

    def get(self) -> None:
        """Answer with the cookie and a page that leads on.

        Not with a redirect: a browser that comes from a file, or from another page, would not send the cookie along.
        """
        self._visitors.admit(self)
        self.set_header("Cache-Control", "no-store")
        self.write(_REDIRECT.format(url="/"))


class _Outliers(RequestHandler):
    """The outliers at a share of rows, as CSV."""

    def initialize(self, exploration: Exploration, visitors: _Visitors) -> None:
        """Keep the arguments that Bokeh hands over this way."""
        self._exploration, self._visitors = exploration, visitors

    def get(self) -> None:
        """Answer with the table, or 400 for a share that is none."""
        self._visitors.check(self)
        try:
            share = float(self.get_query_argument("share", ""))
        except ValueError as error:
            raise HTTPError(400, reason="expected a share from 0 to 1") from error
        if not 0 <= share < 1:
            raise HTTPError(400, reason="expected a share from 0 to 1")
        self.set_header("Content-Type", "text/csv; charset=utf-8")
        self.set_header("Content-Disposition", 'attachment; filename="outliers.csv"')
        self.write(self._exploration.outlier_table(share).to_csv(index=False))
