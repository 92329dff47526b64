"""The frame of a page that stands alone: its style, its head, and safe text.

Here: the style sheet, escaping, tables, and the document around them. Not here: what a page says
(`report.py`), pictures (`charts.py`).

Whatever comes from a run is hostile until it is escaped: names of sites and metrics, texts of
errors, lines of source. A page forbids by its own policy all scripts and all requests, so that a
hole in the escaping would still run nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

#: A traceback may be endless; its end says what happened.
_MOST_TEXT: Final = 6000
_MOST_CELL: Final = 300

_ESCAPES: Final = {
    **dict.fromkeys([*range(9), 11, 12, *range(14, 32), *range(127, 160)], "�"),
    # Characters that turn the direction of what follows: a name must not rewrite its neighbours.
    **dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], "�"),
    ord("&"): "&amp;",
    ord("<"): "&lt;",
    ord(">"): "&gt;",
    ord('"'): "&quot;",
    ord("'"): "&#39;",
}

# Everything is below the class `covey`, so that a notebook around it keeps its own looks.
STYLE: Final = """
.covey{--paper:#f6f7f9;--card:#fff;--ink:#1b2430;--dim:#5b6776;--rule:#e1e5ea;--strong:#1b2430;
--good:#1a7f4b;--bad:#c0362c;--warn:#9a6a00;--middle:#5b6776;--band:#c9d3e0;
--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#b5489b;--c4:#b8860b;--c5:#2a9fd6;--c6:#7a5230;
--c7:#6b5fc7;
background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;box-sizing:border-box}
@media (prefers-color-scheme:dark){.covey{--paper:#12161c;--card:#1a2028;--ink:#e4e9ef;
--dim:#98a5b3;--rule:#2c3540;--strong:#f4f7fa;--good:#4cc38a;--bad:#ff7b6e;--warn:#e3b341;
--middle:#a9b5c2;--band:#34404d;--c0:#4db2ec;--c1:#ff9350;--c2:#34c79a;--c3:#e48fcb;--c4:#e3b341;
--c5:#8cd3f5;--c6:#c99e75;--c7:#a79bff}}
body.covey{margin:0;min-height:100vh;-webkit-text-size-adjust:100%}
.covey *{box-sizing:border-box}
.covey main{max-width:1080px;margin:0 auto;padding:24px 16px 48px}
.covey h1{font-size:1.6rem;line-height:1.25;margin:0;overflow-wrap:anywhere}
.covey h2{font-size:1.1rem;margin:32px 0 12px}
.covey p{margin:6px 0;overflow-wrap:anywhere}
.covey .dim{color:var(--dim)}
.covey header,.covey figure,.covey .card{background:var(--card);border:1px solid var(--rule);
border-radius:10px;padding:16px;margin:0;min-width:0}
.covey .status{display:inline-block;padding:1px 12px;border-radius:99px;font-size:.85rem;
font-weight:600;border:1.5px solid;vertical-align:.25em;margin-left:8px;color:var(--warn)}
.covey .status.completed{color:var(--good)}
.covey .status.failed{color:var(--bad)}
.covey .error{border-left:4px solid var(--bad);padding:2px 0 2px 12px;margin-top:14px}
.covey .facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(118px,1fr));gap:12px 20px;
margin:16px 0 0}
.covey .facts div{min-width:0}
.covey dt{font-size:.8rem;color:var(--dim)}
.covey dd{margin:0;font-size:1.05rem;font-weight:600;overflow-wrap:anywhere}
.covey dd small{font-weight:400;color:var(--dim);font-size:.8rem}
.covey .charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,400px),1fr));
gap:16px}
.covey .charts+.card{margin-top:16px}
.covey figcaption{font-weight:600;margin-bottom:6px;overflow-wrap:anywhere}
.covey svg{display:block;width:100%;height:auto;overflow:visible}
.covey svg.share{width:80px;margin-top:6px}
.covey .bar{shape-rendering:crispEdges}
.covey svg text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,
sans-serif;fill:var(--ink)}
.covey svg .y{text-anchor:end;fill:var(--dim)}
.covey svg .x{text-anchor:middle;fill:var(--dim)}
.covey svg .axis{text-anchor:end;fill:var(--dim)}
.covey svg .head{font-weight:600}
.covey .grid{stroke:var(--rule);fill:none}
.covey .line{fill:none;stroke-width:1.6;stroke-linejoin:round;stroke-linecap:round}
.covey .line.all{stroke-width:2.6}
.covey .line.middle{stroke-dasharray:5 4}
.covey path.band{fill:var(--band);opacity:.6}
.covey .dot.band{fill:var(--band)}
.covey .strip{fill:transparent}
.covey .read{opacity:0;pointer-events:none}
.covey .at:hover .read{opacity:1}
.covey .hair{stroke:var(--dim);stroke-dasharray:2 3}
.covey .box{fill:var(--card);stroke:var(--rule)}
.covey .legend{display:flex;flex-wrap:wrap;gap:2px 14px;list-style:none;margin:8px 0 0;padding:0;
font-size:.85rem;color:var(--dim)}
.covey .legend li{display:flex;align-items:center;gap:6px;min-width:0;overflow-wrap:anywhere;
margin:0}
.covey .key{flex:none;width:14px;height:4px;border-radius:2px}
.covey .key.band,.covey .key.bar{height:11px}
.covey .wide{overflow-x:auto;padding:6px 16px}
.covey table{border-collapse:collapse;width:100%;font-size:.9rem}
.covey caption{text-align:left;color:var(--dim);padding:6px 0}
.covey th,.covey td{text-align:left;padding:6px 14px 6px 0;border-bottom:1px solid var(--rule);
vertical-align:top;font-variant-numeric:tabular-nums;overflow-wrap:break-word;background:none}
.covey tr:last-child>*{border-bottom:0}
.covey td:first-child{min-width:5.5em}
.covey th{color:var(--dim);font-weight:500}
.covey .n{text-align:right}
.covey code,.covey pre{font:.85rem/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;
color:inherit;background:none}
.covey pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:6px 0;padding:0}
.covey details{margin-top:10px}
.covey summary{cursor:pointer;color:var(--dim)}
""" + "".join(
    f".covey .line.{name}{{stroke:var(--{hue})}}.covey .dot.{name},.covey .bar.{name}"
    f"{{fill:var(--{hue})}}.covey .key.{name}{{background:var(--{hue})}}\n"
    for name, hue in [
        ("all", "strong"),
        ("middle", "middle"),
        ("band", "band"),
        ("bad", "bad"),
        *((f"c{hue}", f"c{hue}") for hue in range(8)),
    ]
)

#: Colours for sites.
HUES: Final = 8

_DOCUMENT: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body class="covey">
<main>
{body}</main>
{data}</body>
</html>
"""


def escape(text: str) -> str:
    """Text that is safe between tags and in quoted attributes; control characters are replaced."""
    return text.translate(_ESCAPES)


def cut(text: str) -> str:
    """A text that fits into a cell."""
    return text if len(text) <= _MOST_CELL else f"{text[:_MOST_CELL]}…"


def code(text: str) -> str:
    """A text as it was printed, of a long one the end."""
    end = text if len(text) <= _MOST_TEXT else f"…{text[-_MOST_TEXT:]}"
    return f"<pre>{escape(end)}</pre>"


def remark(text: str) -> str:
    """A line about the page itself."""
    return f'<p class="dim">{escape(text)}</p>\n'


def embedded(name: str, json: bytes, attributes: str = "") -> str:
    """JSON that a page carries for whoever reads it by a program; `<` cannot end it early."""
    text = json.replace(b"<", b"\\u003c").decode("utf-8", "replace")
    return f'<script type="application/json" id="{name}"{attributes}>{text}</script>\n'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table of safe cells; a head that begins with `#` is that of a column of numbers."""
    classes = [' class="n"' if head.startswith("#") else "" for head in heads]
    top = "".join(
        f'<th scope="col"{style}>{escape(head.removeprefix("#"))}</th>'
        for style, head in zip(classes, heads, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td{style}>{cell}</td>" for style, cell in zip(classes, row, strict=True))
        + "</tr>\n"
        for row in rows
    )
    told = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="card wide"><table>{told}<tr>{top}</tr>\n{body}</table></div>\n'


def section(title: str, body: str) -> str:
    """A part of the page, nothing if it is empty."""
    return f"<section><h2>{escape(title)}</h2>\n{body}</section>\n" if body else ""


def document(title: str, body: str, data: str) -> str:
    """A whole page."""
    return _DOCUMENT.format(title=escape(title), style=STYLE, body=body, data=data)


def fragment(body: str) -> str:
    """A part of somebody else's page, with its own style."""
    return f'<div class="covey" style="padding:12px"><style>{STYLE}</style>{body}</div>'
