"""HTML of a page that is one file without a link to anything outside it.

What is shown may be text of a model under optimisation pressure: all of it is escaped here.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence

from rzero_ray.run.report.drawing import Plot


def fill_page(title: str, body: Sequence[str], script: str = "", style: str = "") -> str:
    """Return the page; the title is escaped here, the parts of the body are HTML.

    `script` is the one module that runs in it, `style` comes after the style that all pages have.
    The page's own policy lets a browser run and apply these two and load nothing: model text that
    was not escaped would do nothing there.
    """
    styles = f"{_STYLE}{style}"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy(script, styles)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title, 80)}</title>",
            f"<style>{styles}</style>",
            "</head>",
            "<body>",
            *body,
            *([f'<script type="module">{script}</script>'] if script else []),
            "</body>",
            "</html>\n",
        ]
    )


def policy(script: str, styles: str) -> str:
    """Return the Content-Security-Policy of a page with one script, or none, and one style sheet.

    Attributes may hold style, because every line of a plot has its colour in one; such a style can
    load nothing either. Pictures are those inside the style sheet.
    """
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash(script) if script else _NOTHING}",
            f"style-src-elem {_hash(styles)}",
            "style-src-attr 'unsafe-inline'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


_NOTHING = "'none'"


def policy_of_a_plain_page() -> str:
    """Return the policy of a page without a script, as a server says it."""
    return f"{policy('', _STYLE)}; frame-ancestors 'none'"


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str) -> str:
    """Return a table; every cell is escaped here."""
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{top}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def html_figure(plot: Plot) -> str:
    """Return a plot with its title and caption."""
    return (
        f"<figure><h3>{html.escape(plot.title)}</h3>{plot.svg}"
        f"<figcaption>{html.escape(plot.caption)}</figcaption></figure>"
    )


def shorten(text: str, limit: int) -> str:
    """Return model text on one line, cut, without control or direction-changing characters."""
    # Cut first: a text of megabytes must not be walked through character by character.
    line = " ".join(text[: 4 * limit].split())
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    return shown if len(shown) <= limit and len(text) <= 4 * limit else f"{shown[:limit]}..."


def escape(text: str, limit: int) -> str:
    """Return text as HTML, on one line and cut to a length."""
    return html.escape(shorten(text, limit))


_STYLE = """
:root { --ink: #1c2430; --soft: #5b6573; --page: #fbfbf9; --card: #fff; --line: #dfe3e8;
  --good: #00704f; --bad: #b04500; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dfe4ea; --soft: #9aa4b1; --page: #14181d; --card: #1b2027; --line: #303843;
    --good: #4fd1a5; --bad: #ff9a5c; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 70rem; color: var(--ink);
  background: var(--page); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; }
.facts { list-style: none; margin: .75rem 0 0; padding: 0; color: var(--soft); font-size: .9rem;
  overflow-wrap: anywhere; }
.reading { font-size: 1.1rem; border-left: 4px solid #0072B2; padding-left: 1rem;
  margin: 1.5rem 0; max-width: 48rem; }
.scroll { overflow: auto; max-height: 32rem; }
.scroll thead th { position: sticky; top: 0; background: var(--page); }
.scroll .numbers th:first-child, .scroll .numbers td:first-child { position: sticky; left: 0;
  background: var(--page); }
table { border-collapse: collapse; font-size: .9rem; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .4rem .7rem .4rem 0;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
.runs td { overflow-wrap: anywhere; min-width: 8rem; }
.numbers td, .numbers th { font-variant-numeric: tabular-nums; }
.numbers td { white-space: nowrap; }
.numbers td + td, .numbers th + th { text-align: right; }
.plots { display: grid; gap: 1rem; margin-top: 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; padding: 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .5rem; min-width: 0; }
figure svg { width: 100%; height: auto; display: block; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { color: var(--soft); font-size: .83rem; margin-top: .5rem; }
details { border-top: 1px solid var(--line); padding: .6rem 0; }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; font: .82rem/1.45 ui-monospace, Menlo, Consolas, monospace; }
"""
