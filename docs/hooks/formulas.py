"""Formulas as MathML, which browsers draw by themselves: no script, no fonts, nothing to load."""

import html
import re

from latex2mathml.converter import convert

# what pymdownx.arithmatex makes of $...$ and $$...$$
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content, page, config, files):
    return FORMULA.sub(mathml, content)


def mathml(match: re.Match) -> str:
    tag, source = match[1], html.unescape(match[2]).strip()
    display = 'block' if tag == 'div' else 'inline'
    return f'<{tag} class="formula">{convert(source, display=display)}</{tag}>'
