"""Links of the documentation, and pages that code and configs name; `make docs` checks the rest."""

import re
from pathlib import Path

import pytest
from helpers.checkout import ROOT

PAGES = sorted([*ROOT.glob('*.md'), ROOT / 'data/README.md', *ROOT.glob('docs/**/*.md')])
LINK = re.compile(r'\]\((?![a-z]+:)([^)#\s]*)(?:#([^)\s]+))?\)')
# a page that the site has beside those of the repository, made when it is built
GENERATED = {ROOT / 'docs/reference/command_line.md'}


def prose(page: Path) -> str:
    """The text of a page without its code blocks."""
    text = re.sub(r'^( *)(`{3,}).*?^\1\2', '', page.read_text(encoding='utf-8'), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r'`[^`\n]+`', lambda code: re.sub(r'[\[\]()]', '', code[0]), text)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r'^#+ (.+)$', prose(page), re.MULTILINE)
    plain = (re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', heading) for heading in headings)
    return {re.sub(r'\s', '-', re.sub(r'[^\w\s-]', '', heading).strip().lower()) for heading in plain}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target, anchor in LINK.findall(prose(page)):
        there = (page.parent / target).resolve() if target else page
        assert there.exists() or there in GENERATED, f'{target} is not there'
        if anchor and there.suffix == '.md' and there not in GENERATED:
            assert anchor in anchors(there), f'{target} has no heading {anchor}'


def test_pages_that_code_names_exist():
    files = [
        path for folder in ('mmseg_invattn', 'configs', 'tools', 'tests') for path in ROOT.glob(f'{folder}/**/*.py')
    ]
    text = '\n'.join(path.read_text(encoding='utf-8') for path in [*PAGES, *files] if path.parent.name != 'packaging')
    names = set(re.findall(r'\bdocs/[a-z_/]+\.(?:md|json|png|svg)', text))
    assert len(names) > 20
    assert not [name for name in sorted(names) if not (ROOT / name).exists() and ROOT / name not in GENERATED]
