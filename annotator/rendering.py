"""Markdown and formulas as written by people and models, to HTML and MathML that are safe to show.

Answers are untrusted text. Raw HTML in them is shown as text, images are not loaded (an address
would learn who looks at it), links open elsewhere without telling where from, and what is left
goes through an allow-list.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import nh3
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererProtocol
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from annotator import maths
from annotator.models import Message

LETTERS = "ABCDEFGHI"  # names of the two to nine answers of a comparison
TAGS = {
    "a", "blockquote", "br", "code", "dd", "del", "div", "dl", "dt", "em", "h1", "h2", "h3", "h4",
    "h5", "h6", "hr", "li", "ol", "p", "pre", "s", "span", "strong", "table", "tbody", "td", "th",
    "thead", "tr", "ul",
} | maths.TAGS  # fmt: skip
ATTRIBUTES = {
    "a": {"href", "title"},
    "span": {"class"},
    "code": {"class"},
    "pre": {"class"},
    "ol": {"start"},
    "td": {"style"},
    "th": {"style"},
    "p": {"class"},
    **maths.ATTRIBUTES,
}
MAX_RENDERED = 50_000  # characters; some Markdown takes a time that grows with their square
# Rendered texts that are kept: several people are shown the same answers, and everybody the guidelines.
LONG_KEPT = 64
SHORT_KEPT = 2048
SHORT = 4000  # characters
MAX_HIGHLIGHTED = 10_000  # characters of code, for the same reason


class Conversation(NamedTuple):
    """The messages of a prompt as a page shows them: the last turn is what the answers answer."""

    system: list[Message]
    earlier: list[Message]
    last: Message


def split_conversation(messages: Sequence[Message]) -> Conversation:
    *before, last = messages
    return Conversation(
        system=[message for message in before if message["role"] == "system"],
        earlier=[message for message in before if message["role"] != "system"],
        last=last,
    )


def render_markdown(text: str) -> SafeString:
    """HTML of CommonMark with tables and strikethrough; a very long text as it is.

    Example: "**a** <b>" -> "<p><strong>a</strong> &lt;b&gt;</p>".
    """
    return _short(text) if len(text) <= SHORT else _long(text)


@lru_cache(maxsize=SHORT_KEPT)
def _short(text: str) -> SafeString:
    return _rendered(text)


@lru_cache(maxsize=LONG_KEPT)
def _long(text: str) -> SafeString:
    return _rendered(text)


def _rendered(text: str) -> SafeString:
    if len(text) > MAX_RENDERED:
        return format_html('<pre class="plain">{}</pre>', text)
    html = nh3.clean(
        _markdown().render(text),
        tags=TAGS,
        attributes=ATTRIBUTES,
        filter_style_properties={"text-align"},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )
    return mark_safe(html)  # noqa: S308 (it has just been cleaned)


@cache
def _markdown() -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"html": False, "highlight": _highlight, "breaks": True})
    markdown.enable(["table", "strikethrough"])
    markdown.use(maths.maths_plugin)
    markdown.add_render_rule("image", _image_as_text)
    return markdown


def _highlight(code: str, language: str, _: str) -> str:
    """Coloured code, or an empty string to have it shown plainly."""
    if not language or len(code) > MAX_HIGHLIGHTED:
        return ""
    try:
        lexer = get_lexer_by_name(language)
    except ClassNotFound:
        return ""
    return highlight(code, lexer, HtmlFormatter(nowrap=True))


def _image_as_text(
    self: RendererProtocol, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    token = tokens[index]
    return f"[image: {escape(token.content)} {escape(token.attrGet('src') or '')}]"


@cache
def code_style() -> str:
    """CSS for coloured code, for light and for dark."""
    light, dark = (
        HtmlFormatter(style=style, nobackground=True) for style in ("xcode", "github-dark")
    )
    by_system = dark.get_style_defs(":root:not([data-theme]) .markdown")
    return "\n".join(
        [
            light.get_style_defs(".markdown"),
            dark.get_style_defs(':root[data-theme="dark"] .markdown'),
            f"@media (prefers-color-scheme: dark) {{\n{by_system}\n}}\n",
        ]
    )
