r"""Formulas in Markdown: LaTeX between $…$, $$…$$, \(…\) or \[…\], shown as MathML.

What is between the signs but cannot be read as a formula is shown as it was typed. Amounts of money
are no formulas: as in Pandoc, an opening $ has no space behind it, a closing one none before it and
no digit behind; and no number is opened by a $ and followed by a word ("$5 and").
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from html import unescape
from xml.etree.ElementTree import Element, tostring

from django.utils.html import escape
from latex2mathml.converter import convert_to_element
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererProtocol
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

INLINE = {"$$": "$$", "$": "$", r"\(": r"\)", r"\[": r"\]"}  # the longer one first
BLOCK = {"$$": "$$", r"\[": r"\]"}
MAX_LATEX = 2_000  # characters of one formula
_AMOUNT = re.compile(r"\d[\d.,]*\s+[^\W\d_]{2,}")
# Environments that the library does not know, and those that look like them.
_ENVIRONMENTS = {"aligned": "align*", "gathered": "matrix", "smallmatrix": "matrix"}
_ENVIRONMENT = re.compile(r"\\(begin|end)\{(" + "|".join(_ENVIRONMENTS) + r")\}")
# Elements of MathML that are wrong with fewer children or more.
_CHILDREN = {"mfrac": 2, "mroot": 2, "msub": 2, "msup": 2, "munder": 2, "mover": 2, "msubsup": 3,
             "munderover": 3}  # fmt: skip
TAGS = {"math", "menclose", "mi", "mn", "mo", "mpadded", "mphantom", "mrow", "mspace", "msqrt",
        "mstyle", "mtable", "mtd", "mtext", "mtr", *_CHILDREN}  # fmt: skip
# What the library writes, but for addresses, classes and styles.
ATTRIBUTES = {
    "math": {"display"},
    "menclose": {"notation"},
    "mi": {"mathvariant"},
    "mn": {"mathvariant"},
    "mo": {"accent", "fence", "form", "largeop", "mathvariant", "maxsize", "minsize", "movablelimits",
           "separator", "stretchy", "symmetric"},
    "mfrac": {"linethickness"},
    "mover": {"accent"},
    "mspace": {"width", "linebreak"},
    "mstyle": {"displaystyle", "mathcolor", "scriptlevel"},
    "mtable": {"columnlines", "columnspacing", "displaystyle", "rowlines", "rowspacing"},
    "mtd": {"columnalign"},
    "mtext": {"mathvariant"},
    "munder": {"accentunder"},
}  # fmt: skip


def maths_plugin(markdown: MarkdownIt) -> None:
    interrupts = ["paragraph", "reference", "blockquote", "list"]
    markdown.block.ruler.before("fence", "math_block", _block_rule, {"alt": interrupts})
    markdown.inline.ruler.before("escape", "math_inline", _inline_rule)
    markdown.add_render_rule("math_block", _render)
    markdown.add_render_rule("math_inline", _render)


@lru_cache(maxsize=4096)
def mathml(latex: str, display: str) -> str | None:
    r"""The formula as MathML; None if it is none. `display` is inline or block.

    Example: r"x < 1" -> "<math display="inline"><mrow><mi>x</mi><mo>&lt;</mo><mn>1</mn></mrow></math>".
    """
    if len(latex) > MAX_LATEX:
        return None
    latex = _ENVIRONMENT.sub(lambda m: rf"\{m[1]}{{{_ENVIRONMENTS[m[2]]}}}", latex)
    try:
        math = convert_to_element(latex, display=display)
    except Exception:  # the library's own errors, and IndexError, KeyError, RecursionError, …
        return None
    elements = list(math.iter())
    if any(len(element) != _CHILDREN.get(element.tag, len(element)) for element in elements):
        return None
    if _has_stray_ampersand(elements):
        return None
    for element in elements:  # it writes signs as references, and letters as they are: "<" too
        element.text = element.text and unescape(element.text)
    math.attrib.pop("xmlns", None)
    return tostring(math, encoding="unicode")


def _has_stray_ampersand(elements: Sequence[Element]) -> bool:
    """Columns outside a table: of an environment that the library does not know."""
    return any(element.tag == "mi" and element.text == "&" for element in elements)


def _render(
    self: RendererProtocol, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    token = tokens[index]
    html = mathml(token.content.strip(), token.info) or escape(
        f"{token.markup}{token.content}{INLINE[token.markup]}"
    )
    return f'<p class="formula">{html}</p>\n' if token.type == "math_block" else html


# --- finding them --------------------------------------------------------------------------------
def _inline_rule(state: StateInline, silent: bool) -> bool:
    opening = next((sign for sign in INLINE if state.src.startswith(sign, state.pos)), None)
    if opening is None:
        return False
    closing = INLINE[opening]
    start = state.pos + len(opening)
    end = _find_closing(state, closing, start)
    latex = state.src[start:end]
    if end < 0 or not latex.strip() or (opening == "$" and not _is_formula(state, start, end)):
        return False
    if not silent:
        _push(
            state, "math_inline", opening, latex, "inline" if opening in ("$", r"\(") else "block"
        )
    state.pos = end + len(closing)
    return True


def _find_closing(state: StateInline, closing: str, start: int) -> int:
    """Where the next `closing` is that no backslash takes its meaning; -1 if there is none.

    Where there was none, there is none further on: a text of ten thousand openings is gone through
    once, not ten thousand times.
    """
    missing = state.env.setdefault("maths_missing", {})
    if missing.get(closing) == state.src:
        return -1
    end = state.src.find(closing, start)
    while end > 0 and closing.startswith("$") and state.src[end - 1] == "\\":
        end = state.src.find(closing, end + 1)
    if end < 0:
        missing[closing] = state.src
    return end


def _is_formula(state: StateInline, start: int, end: int) -> bool:
    """Whether what is between two single dollars is no text between two amounts of money."""
    before, after = state.src[start - 2 : start - 1], state.src[end + 1 : end + 2]
    latex = state.src[start:end]
    return (
        latex == latex.strip()
        and not (before.isdigit() and start > 1)
        and not after.isdigit()
        and not _AMOUNT.match(latex)
    )


def _block_rule(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    """A formula on lines of its own, which may look like a list or a heading in between."""
    if state.is_code_block(start_line):
        return False
    first = _line(state, start_line)
    opening = next((sign for sign in BLOCK if first.startswith(sign)), None)
    if opening is None:
        return False
    closing = BLOCK[opening]
    start = state.bMarks[start_line] + state.tShift[start_line] + len(opening)
    end = state.src.find(closing, start, start + MAX_LATEX)
    last_line = bisect_left(state.eMarks, end)
    if end < 0 or last_line >= end_line or state.src[end + 2 : state.eMarks[last_line]].strip():
        return False
    lines = range(start_line, last_line + 1)
    if any(state.sCount[number] < state.blkIndent for number in lines):
        return False  # the list that it began in has ended
    text = "\n".join(_line(state, number) for number in lines)
    if not silent:
        _push(state, "math_block", opening, text[2:-2], "block").map = [start_line, last_line + 1]
    state.line = last_line + 1
    return True


def _line(state: StateBlock, number: int) -> str:
    """Without indentation, and without the sign of a quotation or a list that it is in."""
    return state.src[state.bMarks[number] + state.tShift[number] : state.eMarks[number]].strip()


def _push(
    state: StateInline | StateBlock, kind: str, opening: str, latex: str, display: str
) -> Token:
    token = state.push(kind, "math", 0)
    token.markup, token.content, token.info = opening, latex, display
    return token
