"""One HTML page for people: numbers, pictures and tables in a single file that can be sent to anybody.

Everything is inside the file (pictures as base64, no scripts, no fonts or styles from elsewhere), so it opens
offline and keeps looking the same.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jinja2

from cnnray import files


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Numbers:
    """Figures shown large: name -> value; floats are shown to four digits."""

    values: Mapping[str, str | int | float]


@dataclass(frozen=True)
class Picture:
    """A PNG or JPEG over the full width."""

    content: bytes
    caption: str = ""


@dataclass(frozen=True)
class Gallery:
    """Small pictures side by side, each with a caption of one or more lines.

    Attributes:
        width: px of a picture at least; they grow to fill a line.
    """

    pictures: Sequence[Picture]
    width: int = 150


@dataclass(frozen=True)
class Table:
    """Rows under a header; a long table scrolls in its box.

    Attributes:
        bars: names of columns whose numbers from 0 to 1 are drawn as bars beside the figure.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str | int | float]]
    bars: frozenset[str] = frozenset()


Part = Text | Numbers | Picture | Gallery | Table


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading; "" has no heading."""

    title: str
    parts: Sequence[Part] = field(default_factory=list)


def write_page(uri: str, title: str, sections: Sequence[Section], subtitle: str = "") -> None:
    """Write the page to a file, all or nothing.

    Args:
        uri: of the HTML file.
        title: the page's name.
        sections: from top to bottom.
        subtitle: one line under the title.

    Raises:
        StorageError: it cannot be written.
    """
    files.write_bytes(uri, render_page(title, sections, subtitle).encode())


def render_page(title: str, sections: Sequence[Section], subtitle: str = "") -> str:
    """The page as HTML text; all given text is escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"data_uri": _data_uri, "figure": _figure, "kind": lambda part: type(part).__name__}
    return environment.from_string(_TEMPLATE).render(style=STYLE, title=title, subtitle=subtitle, sections=sections)


def _data_uri(content: bytes) -> str:
    kind = "jpeg" if content.startswith(b"\xff\xd8") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _figure(value: str | int | float) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1 else f"{value:,.2f}".rstrip("0").rstrip(".")
    return f"{value:,}" if isinstance(value, int) else value


# What all pages look like; dark where the reader's screen is.
STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --soft: #5d6b7a; --line: #e3e8ee; --accent: #2563a8; --back: #f5f7fa;
  --card: #fff; --head: #eef2f6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e8ee; --soft: #9aa7b5; --line: #2f3a46; --accent: #7fb2ea;
  --back: #12171d; --card: #1a2129; --head: #232c36; } }
@media print { :root { color-scheme: light; --ink: #1c2733; --soft: #5d6b7a; --line: #e3e8ee; --accent: #2563a8;
  --back: #fff; --card: #fff; --head: #eef2f6; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 18px; margin: 0 0 14px; }
a { color: var(--accent); }
dl { margin: 0; } p { margin: 0; max-width: 75ch; }
.subtitle { color: var(--soft); margin: 6px 0 0; overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px 22px; margin-top: 20px; }
section > * + * { margin-top: 16px; }
.numbers { display: grid; grid-template-columns: repeat(auto-fill, minmax(135px, 1fr)); gap: 18px 20px; }
.numbers dt { color: var(--soft); font-size: 13px; }
.numbers dd { margin: 2px 0 0; font-size: 24px; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
@media (max-width: 480px) { main { padding: 20px 10px 40px; } section { padding: 16px 12px; } }
@media print { section { break-inside: avoid; border: 0; padding: 0; } }
"""  # noqa: E501

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
{{ style | safe }}
figure { margin: 0; } figure img { max-width: 100%; height: auto; display: block; margin: 0 auto; }
figcaption { color: var(--soft); font-size: 13px; margin-top: 6px; white-space: pre-line; overflow-wrap: anywhere; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(var(--width), 1fr)); gap: 16px; }
.gallery img { width: 100%; border-radius: 6px; }
.table { overflow: auto; max-height: 560px; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { position: sticky; top: 0; background: var(--head); font-size: 13px; text-align: left; font-weight: 600; }
th, td { padding: 6px 12px; border-bottom: 1px solid var(--line); white-space: nowrap; }
tr:last-child td { border-bottom: 0; } tbody tr:hover { background: var(--back); }
th.n, td.n { text-align: right; } td.bar { min-width: 150px; }
.track { display: inline-block; vertical-align: middle; width: 80px; height: 8px; border-radius: 4px; background: var(--line); margin-right: 10px; }
.fill { display: block; height: 8px; border-radius: 4px; background: var(--accent); }
@media print { .table { max-height: none; } }
</style></head>
<body><main>
<h1>{{ title }}</h1>
{% if subtitle %}<p class="subtitle">{{ subtitle }}</p>{% endif %}

{% for section in sections %}
<section>
{% if section.title %}<h2>{{ section.title }}</h2>{% endif %}

{% for part in section.parts %}
{% set kind = part | kind %}
{% if kind == "Text" %}
<p>{{ part.text }}</p>
{% elif kind == "Numbers" %}
<dl class="numbers">{% for name, value in part["values"].items() %}<div><dt>{{ name }}</dt><dd>{{ value | figure }}</dd></div>{% endfor %}</dl>
{% elif kind == "Picture" %}
<figure><img src="{{ part.content | data_uri }}" alt="{{ part.caption }}">{% if part.caption %}<figcaption>{{ part.caption }}</figcaption>{% endif %}</figure>
{% elif kind == "Gallery" %}
<div class="gallery" style="--width:{{ part.width }}px">{% for picture in part.pictures %}<figure><img src="{{ picture.content | data_uri }}" alt="{{ picture.caption }}"><figcaption>{{ picture.caption }}</figcaption></figure>{% endfor %}</div>
{% elif kind == "Table" %}
<div class="table"><table><thead><tr>{% for name in part.header %}<th{% if part.rows and part.rows[0][loop.index0] is number and name not in part.bars %} class="n"{% endif %}>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in part.rows %}<tr>{% for cell in row %}{% if part.header[loop.index0] in part.bars and cell is number %}<td class="bar"><span class="track"><span class="fill" style="width:{{ "%.1f" | format(100 * cell) }}%"></span></span>{{ "%.3f" | format(cell) }}</td>{% else %}<td{% if cell is number %} class="n"{% endif %}>{{ cell | figure }}</td>{% endif %}{% endfor %}</tr>{% endfor %}</tbody></table></div>
{% endif %}
{% endfor %}
</section>
{% endfor %}
</main></body></html>
"""  # noqa: E501
