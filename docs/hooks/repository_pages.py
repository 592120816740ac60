"""Pages of the site that lie elsewhere in the repository, and links that leave ``docs/``.

Links are written as they work in the repository. On the site a link to a file that is a page there leads to that page;
for any other file its path stands in the place of the link.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
# page of the site -> file of the repository
PAGES = {
    'index.md': 'README.md',
    'changelog.md': 'CHANGELOG.md',
    'contributing.md': 'CONTRIBUTING.md',
    'reference/data_folders.md': 'data/README.md',
}
LINK = re.compile(r'(?<=\]\()(?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?(?=\))')


def on_files(files, config):
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding='utf-8')))
    return files


def on_page_markdown(markdown, page, config, files):
    name = page.file.src_uri
    return site_links(markdown, name, PAGES.get(name, f'docs/{name}'))


def site_links(markdown: str, page: str, source: str) -> str:
    """The text with the links of the site.

    Args:
        markdown: text with the links of the repository.
        page: path of the page, from ``docs/``.
        source: path of its file, from the root of the repository.
    """
    pages = {source: page for page, source in PAGES.items()}
    outside = []

    def link(match: re.Match) -> str:
        path, anchor = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1])), match[2] or ''
        if path not in pages and not path.startswith('docs/'):
            outside.append((match[0], path))
            return match[0]
        target = pages.get(path, path.removeprefix('docs/'))
        return posixpath.relpath(target, posixpath.dirname(page) or '.') + anchor

    markdown = LINK.sub(link, markdown)
    for written, path in outside:
        if not (ROOT / path).exists():
            raise FileNotFoundError(f'{source} links to {written}: there is no {path} in the repository')
        markdown = re.sub(
            rf'\[([^\]]*)\]\({re.escape(written)}\)',
            lambda m, path=path: f'`{path}`' if m[1].strip('`') == path else f'{m[1]} (`{path}`)',
            markdown,
        )
    return markdown
