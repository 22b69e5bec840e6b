import pytest

from annotator.rendering import code_style, render_markdown, split_conversation


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**a** <b>", "<p><strong>a</strong> &lt;b&gt;</p>\n"),
        ("~~old~~", "<p><s>old</s></p>\n"),
        ("two\nlines", "<p>two<br>\nlines</p>\n"),
        ("日本語 *です*", "<p>日本語 <em>です</em></p>\n"),
        ("", ""),
    ],
)
def test_markdown(text, html):
    assert render_markdown(text) == html


def test_tables_keep_their_alignment():
    html = render_markdown("| a |\n|--:|\n| 1 |")

    assert '<td style="text-align:right">1</td>' in html


def test_links_lead_out_without_saying_from_where():
    html = render_markdown("[here](https://example.org)")

    assert html == (
        '<p><a href="https://example.org" target="_blank" rel="noopener noreferrer nofollow">'
        "here</a></p>\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[a](javascript:alert(1))",
        "[a](data:text/html,<script>alert(1)</script>)",
        '<a href="https://x" onclick="alert(1)">x</a>',
        "```html\n<script>alert(1)</script>\n```",
        "```python\n</code><script>alert(1)</script>\n```",
    ],
)
def test_nothing_that_runs_comes_through(text):
    html = render_markdown(text)

    assert "<script" not in html
    assert "<img" not in html
    assert "onclick=" not in html.replace("&quot;", '"').split(">")[0]
    assert 'href="javascript' not in html
    assert 'href="data' not in html


def test_images_are_not_loaded():
    html = render_markdown("![a cat](https://example.org/cat.png)")

    assert html == "<p>[image: a cat https://example.org/cat.png]</p>\n"


def test_code_is_coloured_where_the_language_is_known():
    known, unknown = (render_markdown(f"```{name}\nx = 1\n```") for name in ("python", "klingon"))

    assert '<span class="mi">1</span>' in known
    assert '<code class="language-klingon">x = 1\n</code>' in unknown


def test_a_very_long_answer_is_shown_whole():
    assert "x" * 20_000 in render_markdown("x" * 20_000)
    assert render_markdown("*<" * 30_000) == f'<pre class="plain">{"*&lt;" * 30_000}</pre>'


def test_the_last_turn_and_the_system_prompt_are_told_apart():
    roles = ["system", "user", "assistant", "user"]
    system, *earlier, last = messages = [{"role": role, "content": "x"} for role in roles]

    assert split_conversation(messages) == ([system], earlier, last)
    assert split_conversation([last]) == ([], [], last)


def test_colours_of_code_follow_the_theme():
    css = code_style()

    assert ':root[data-theme="dark"] .markdown .k' in css
    assert "@media (prefers-color-scheme: dark)" in css
