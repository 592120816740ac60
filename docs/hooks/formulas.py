"""Formulas as MathML, which browsers draw by themselves: no script, nothing to load from elsewhere."""

import html
import re

from latex2mathml.converter import convert

# what pymdownx.arithmatex makes of $...$ and $$...$$, and the punctuation behind it
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>([,.;:)]*)', re.DOTALL)
# bars are set as those of a norm, not as a relation
BAR = re.compile(r'<mo\b([^>]*)>(?=(?:\||&#x0007C;)</mo>)')


def on_page_content(content, page, config, files):
    return FORMULA.sub(mathml, content)


def mathml(match: re.Match) -> str:
    tag, source, behind = match[1], html.unescape(match[2]).strip(), match[3]
    formula = convert(source, display='block' if tag == 'div' else 'inline')
    formula = BAR.sub(r'<mo lspace="0em" rspace="0em"\1>', formula)
    return f'<{tag} class="formula">{formula}{behind}</{tag}>'
