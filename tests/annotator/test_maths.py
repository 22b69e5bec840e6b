"""Formulas: which signs open one, what becomes of it, and that nothing else gets through."""

import re

import pytest

from annotator.maths import mathml
from annotator.rendering import render_markdown

X = '<math display="inline"><mrow><mi>x</mi></mrow></math>'
X_BLOCK = '<p class="formula"><math display="block"><mrow><mi>x</mi></mrow></math></p>\n'


def test_a_formula_is_mathml():
    assert mathml(r"x < \frac{1}{2}", "inline") == (
        '<math display="inline"><mrow><mi>x</mi><mo>&lt;</mo>'
        "<mfrac><mrow><mn>1</mn></mrow><mrow><mn>2</mn></mrow></mfrac></mrow></math>"
    )


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("so $x$.", f"<p>so {X}.</p>\n"),
        (r"so \(x\).", f"<p>so {X}.</p>\n"),
        ("the $x$th", f"<p>the {X}th</p>\n"),
        ("$$x$$", X_BLOCK),
        ("\\[\n  x\n\\]", X_BLOCK),
        ("so:\n$$\nx\n$$\nor", f"<p>so:</p>\n{X_BLOCK}<p>or</p>\n"),
        ("> $$\n> x\n> $$", f"<blockquote>\n{X_BLOCK}</blockquote>\n"),
        ("$x$ and `$x$`", f"<p>{X} and <code>$x$</code></p>\n"),
    ],
)
def test_four_pairs_of_signs_open_and_close_a_formula(text, html):
    assert render_markdown(text) == html


def test_lines_of_a_formula_that_look_like_a_list_are_the_formula():
    assert render_markdown("$$\na\n- b\n$$").startswith('<p class="formula"><math display="block">')


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and $10.",
        "between $1,000 and $2,000",
        "$5 here and costs in US$",
        "5$ or 6$",
        "$ x $",
        "US$5 to CA$6",
        "$5",
        "$$",
    ],
)
def test_money_is_no_formula(text):
    assert render_markdown(text) == f"<p>{text}</p>\n"


@pytest.mark.parametrize(
    "text",
    [
        r"$\frac{a$",
        r"$\frac{a}$",
        "$x^$",
        r"$\left( x$",
        "$}{$",
        f"${'{' * 900}$",
        f"${'x' * 2001}$",
    ],
)
def test_what_cannot_be_read_as_a_formula_is_shown_as_it_was_typed(text):
    assert render_markdown(text) == f"<p>{text}</p>\n"


def test_columns_of_an_unknown_environment_are_shown_as_typed():
    assert mathml(r"\begin{strange} a &= b \end{strange}", "block") is None
    assert "<mtable" in mathml(r"\begin{aligned} a &= b \\ c &= d \end{aligned}", "block")


@pytest.mark.parametrize(
    "latex",
    [
        r"\text{<script>alert(1)</script>}",
        r"\text{<img src=x onerror=alert(1)>}",
        r"\text{</mtext></math><img src=x onerror=alert(1)>}",
        r"\text{<mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>}",
        r"\href{javascript:alert(1)}{x}",
        r"\class{a}{x} \style{background:url(//example.org)}{x}",
        r"\color{red;background:url(//example.org)}{x}",
        r'\mathrm{" onclick="alert(1)}',
        r"\begin{array}{c' onclick='x} a \end{array}",
        "<script>alert(1)</script>",
        "\\unicode{x3c}script\\unicode{x3e}",
    ],
)
@pytest.mark.parametrize("signs", [("$", "$"), ("$$", "$$"), (r"\(", r"\)"), (r"\[", r"\]")])
def test_nothing_that_runs_or_loads_comes_through_a_formula(latex, signs):
    html = render_markdown(latex.join(signs))

    tags = re.findall(r"<[a-z][^>]*>", html)
    allowed = re.compile(
        r'<(p|em|m[a-z]+)( (class="formula"|display="(inline|block)"|mathcolor="[^"]*"'
        r'|mathvariant="[a-z-]*"|stretchy="(true|false)"|columnalign="[a-z]*"))*>'
    )
    assert [tag for tag in tags if not allowed.fullmatch(tag)] == []


@pytest.mark.parametrize("signs", [r"\(", "\\[\n", "$x ", "$"])
def test_a_model_that_stutters_is_shown_whole(signs):
    html = render_markdown(f"{signs * 5_000}.")

    shown = html.removeprefix("<p>").removesuffix("</p>\n").replace("<br>", "")
    assert shown == f"{signs.replace(chr(92), '') * 5_000}."
