"""Layout: templates filled in, static files under their content's hash, and the headers of every answer under /ui."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web

from proxy.auth.caller import CALLER, UNPROVEN
from proxy.http.answers import path_of
from proxy.page.content.text import age_of, grouped, made_visible, moment, shorten, size_of
from proxy.page.session import DOORKEEPER
from proxy.protocol.errors import NotFound

if TYPE_CHECKING:
    from jinja2 import Environment

#: Where the page is.
ROOT_PATH = "/ui/"
#: Cookie that says `off` where somebody does not want keys of the keyboard to do anything.
KEYS_COOKIE = "branchline_keys"

_FOLDER = Path(__file__).parent
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types branchline"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    # not no-referrer: with that, a browser says of its own forms that they come from nowhere (`Origin: null`)
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

#: The templates and static files of the page.
TEMPLATES: web.AppKey[Templates] = web.AppKey("layout")


class Templates:
    """The page's templates and static files; nothing is read before the first view."""

    @cached_property
    def _environment(self) -> Environment:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup

        def shown(value: Any) -> Any:
            # before it is escaped; what is Markup was made here
            return made_visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

        environment = Environment(
            loader=FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=shown,
            auto_reload=False,
        )
        environment.filters.update(age=age_of, moment=moment, grouped=grouped, short=shorten, size=size_of, html=Markup)
        environment.globals.update(static=self.static_path)
        return environment

    @cached_property
    def _files(self) -> dict[str, tuple[str, bytes]]:
        """Name → hash and content."""
        contents = {path.name: path.read_bytes() for path in (_FOLDER / "static").iterdir() if path.suffix in _TYPES}
        return {name: (hashlib.sha256(content).hexdigest()[:16], content) for name, content in contents.items()}

    def render(self, template: str, **values: Any) -> str:
        """Return a template filled in."""
        return self._environment.get_template(template).render(values)

    def static_path(self, name: str) -> str:
        """Return where a static file is."""
        return f"{ROOT_PATH}static/{self._files[name][0]}/{name}"

    def static(self, digest: str, name: str) -> web.Response:
        """Return a static file, to be kept for ever. Raises NotFound."""
        found = self._files.get(name)
        if found is None or found[0] != digest:
            raise NotFound("There is no such file.")
        headers = {hdrs.CACHE_CONTROL: "public, max-age=31536000, immutable"}
        return web.Response(body=found[1], content_type=_TYPES[Path(name).suffix], charset="utf-8", headers=headers)


def show_screen(request: web.Request, template: str, *, status: int = 200, **values: Any) -> web.Response:
    """Return a screen, with what every template of the page needs beside `values`."""
    caller, keeper = request.get(CALLER), request.app[DOORKEEPER]
    around = {
        "owner": caller.owner if caller else "",
        "signed_in": caller is not None and keeper.cookie in request.cookies,
        "can_sign_in": keeper.mode != "none" and (caller is None or caller.owner in UNPROVEN),
        "keys": request.cookies.get(KEYS_COOKIE) != "off",
        "here": path_of(request),
        "host": request.host,
    }
    text = request.app[TEMPLATES].render(template, **around, **values)
    return web.Response(text=text, status=status, content_type="text/html", charset="utf-8")


def see_other(location: str) -> web.Response:
    """Return an answer that sends the browser to another screen with GET."""
    return web.Response(status=303, headers={hdrs.LOCATION: location})


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Put the page's headers on every answer under /ui; what an answer says itself stays."""
    if request.rel_url.raw_path.startswith(ROOT_PATH):
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
