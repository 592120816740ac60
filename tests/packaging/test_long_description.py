"""The README on a package index: every link and picture works there."""

import re
import runpy

from helpers.checkout import ROOT

LINK = re.compile(r'\]\(([^)\s]+)[^)]*\)')
README = (ROOT / 'README.md').read_text(encoding='utf-8')
long_description = runpy.run_path(str(ROOT / 'setup.py'))['long_description']


def test_no_relative_link_is_left():
    targets = LINK.findall(long_description(README))
    assert targets and all(target.startswith('https://') for target in targets), targets
    assert '<img' not in README and 'href=' not in README  # which it would not see


def test_relative_links_of_the_readme_lead_somewhere():
    targets = [target for target in LINK.findall(README) if not target.startswith(('https://', '#'))]
    assert len(targets) > 5
    assert [target for target in targets if not (ROOT / target.split('#')[0]).exists()] == []


def test_paths_stand_in_their_place():
    given = (
        'See [docs/a.md](docs/a.md), [the theorem](docs/b.md#proof) and [a page](https://example.org/x).\n\n'
        '![a picture](docs/images/x.png)\n\n[![another](docs/images/y.png)](docs/c.md)\n\nEnd.\n'
    )
    assert long_description(given) == (
        'See docs/a.md, the theorem (`docs/b.md#proof`) and [a page](https://example.org/x).\n\nEnd.\n'
    )
