"""Render: a model's Markdown as HTML that can do nothing. Pure; runs in a process of its own (`worker`).

Raw HTML in it is text. Pictures are links. What comes out is cleaned once more, by another library's rules.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from proxy.page.content.text import made_visible

if TYPE_CHECKING:
    from markdown_it.rules_core import StateCore

#: Longest code block that is coloured, in characters.
MAX_HIGHLIGHTED = 20_000
#: The level of a message's own headings: below those of the screen and of the message.
TOP_HEADING = 3

_TAGS = {
    "a", "blockquote", "br", "code", "del", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s", "span",
    "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
_ATTRIBUTES = {"a": {"href"}, "ol": {"start"}, "span": {"class"}, "pre": {"tabindex"}}
_SCHEMES = {"http", "https", "mailto"}
_CLASS = re.compile(r"t-[a-z0-9]{1,4}")
_HOST = re.compile(r"(?:[\w-]+\.)+[a-z]{2,}", re.IGNORECASE)


def to_html(text: str) -> str:
    """Return Markdown as clean HTML."""
    rendered: str = _parser().render(made_visible(text))
    return nh3.clean(
        rendered,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        attribute_filter=_keep_attribute,
        url_schemes=_SCHEMES,
        link_rel="noopener noreferrer nofollow",
        strip_comments=True,
    )


def highlighted(code: str, language: str) -> str:
    """Return code as HTML with classes, '' for a language that is not known or not named, or too much of it."""
    if not language or len(code) > MAX_HIGHLIGHTED:
        return ""
    try:
        lexer = get_lexer_by_name(language)
    except ClassNotFound:
        return ""
    coloured: str = highlight(code, lexer, HtmlFormatter(nowrap=True, classprefix="t-"))
    return coloured


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("js-default", {"breaks": True})
    parser.core.ruler.push("page", _adapt)
    parser.add_render_rule("fence", _fence)
    parser.add_render_rule("code_block", _fence)
    return parser


def _fence(_: Any, tokens: Sequence[Token], index: int, *_more: Any) -> str:
    token = tokens[index]
    language = token.info.split()[0][:40] if token.info.strip() else ""
    code = highlighted(token.content, language) or _escape(token.content)
    # reached by keyboard, so that what is cut off can be scrolled to
    return f'<pre tabindex="0"><code>{code}</code></pre>\n'


def _adapt(state: StateCore) -> None:
    """Turn pictures into links, say where links lead, and put headings below those of the screen."""
    levels: list[int] = []
    opened: list[str] = []
    for token in state.tokens:
        if token.type == "heading_open":
            level = int(token.tag[1])
            while levels and levels[-1] >= level:
                levels.pop()
            levels.append(level)
            token.tag = f"h{min(TOP_HEADING - 1 + len(levels), 6)}"
            opened.append(token.tag)
        elif token.type == "heading_close":
            token.tag = opened.pop()
        elif token.type == "inline" and token.children:
            token.children = _honest(token.children)


def _honest(tokens: Sequence[Token]) -> list[Token]:
    told: list[Token] = []
    begun: list[tuple[Token, int]] = []
    for token in tokens:
        if token.type == "image":
            told += _picture(token)
            continue
        if token.type == "link_open":
            begun.append((token, len(told)))
        told.append(token)
        if token.type == "link_close" and begun:
            opening, start = begun.pop()
            said = "".join(one.content for one in told[start:-1])
            host = _host_of(str(opening.attrs.get("href", "")))
            named = {name.lower() for name in _HOST.findall(said)}
            if host and named and host not in named:
                told.append(_text(f" [{host}]"))
    return told


def _picture(token: Token) -> list[Token]:
    source = str(token.attrs.get("src", ""))
    host = _host_of(source)
    label = f"picture: {token.content or 'without a description'}"
    if not host:
        return [_text(f"[{label}]")]
    opening = Token("link_open", "a", 1, attrs={"href": source})
    return [opening, _text(f"[{label}, at {host}]"), Token("link_close", "a", -1)]


def _text(content: str) -> Token:
    return Token("text", "", 0, content=content)


def _host_of(url: str) -> str:
    try:
        parts = urlsplit(url)
        return (parts.hostname or "") if parts.scheme in {"http", "https"} else ""
    except ValueError:
        return ""


def _keep_attribute(tag: str, name: str, value: str) -> str | None:
    if name == "class":
        kept = " ".join(one for one in value.split() if _CLASS.fullmatch(one))
        return kept or None
    if name == "tabindex":
        return "0"
    return value


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
