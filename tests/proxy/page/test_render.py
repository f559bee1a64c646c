"""Rendering: Markdown of strangers comes out as HTML that can do nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.page.content.render import MAX_HIGHLIGHTED, highlighted, to_html

ALLOWED = {
    "a", "blockquote", "br", "code", "del", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s", "span",
    "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags(html: str) -> list[tuple[str, dict[str, str | None]]]:
    """The tags in HTML with their attributes."""
    parser = _Tags()
    parser.feed(html)
    return parser.found


def harmless(html: str) -> bool:
    """Whether there is nothing in it but text, links that are none of ours, and classes of colours."""
    for tag, attributes in tags(html):
        if tag not in ALLOWED or attributes.keys() - {"href", "rel", "class", "start", "tabindex"}:
            return False
        if tag == "a" and attributes.get("href") is not None:
            if not re.match(r"(https?:|mailto:)", str(attributes["href"]), re.IGNORECASE):
                return False
            if attributes.get("rel") != "noopener noreferrer nofollow":
                return False
    return True


PIECES = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "![a](https://e.example/x.png)", "[a](javascript:x)",
    "[a](data:text/html;base64,PGI+)", "[x]: javascript:alert(1)\n\n[x]", "<javascript:alert(1)>", "`", "```", "\n",
    "```html\n<b onclick=x>\n```", "| a |\n|:-|\n| <i> |", "> ", "# ", "- ", "1. ", "[", "]", "(", ")", "*",
    "&lt;", "&#106;",
    "\u202e", "\x00", "<style>*{}</style>", "<a href='//e.example' style='x'>", "https://e.example", "text", " ",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=30).map("".join))
def test_whatever_is_written_comes_out_harmless(text: str):
    assert harmless(to_html(text))


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("<b>x</b>", "<p>&lt;b&gt;x&lt;/b&gt;</p>\n"),
        ("a\u202eb", "<p>a⟨U+202E⟩b</p>\n"),
        ("![cat](data:image/png;base64,xx)", "<p>[picture: cat]</p>\n"),
        ("a\nb", "<p>a<br>\nb</p>\n"),
    ],
)
def test_what_comes_of_it(text: str, html: str):
    assert to_html(text) == html


def test_a_picture_is_a_link_that_says_where_it_is():
    assert "[picture: cat, at e.example]</a>" in to_html("![cat](https://e.example/cat.png)")


def test_a_link_says_where_it_leads_if_its_text_says_something_else():
    assert "[evil.example]" in to_html("[bank.example](https://evil.example/)")
    assert "[" not in to_html("[bank.example](https://bank.example/in)")
    assert "[" not in to_html("[here](https://bank.example/in)")


def test_headings_stand_below_those_of_the_screen_without_a_gap():
    html = to_html("## a\n\n##### b\n\n# c\n\n### d\n\n###### e\n\n###### f")
    assert re.findall(r"<(h\d)>", html) == ["h3", "h4", "h3", "h4", "h5", "h5"]


def test_code_is_coloured_if_its_language_is_named_and_it_is_no_book():
    assert '<span class="t-k">def</span>' in to_html("```python\ndef f(): ...\n```")
    assert "span" not in to_html("```\ndef f(): ...\n```")
    assert "span" not in to_html("```no-such-language\nx\n```")
    assert highlighted("x = 1\n" * MAX_HIGHLIGHTED, "python") == ""


def test_a_class_that_is_no_colour_is_dropped():
    assert harmless(to_html('```python title="x" class=evil\nx\n```'))
