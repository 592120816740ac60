"""What ``mkdocs build --strict`` does not look at: code blocks name their language, nothing comes from other hosts."""

import logging
import re
from pathlib import Path

log = logging.getLogger('mkdocs.hooks.checks')
FENCE = re.compile(r'^ *(`{3,}|~{3,})(.*)$')
# what a browser loads by itself; a link that a reader follows is none of these
OTHER_HOST = r'["\']?(?:https?:)?//[^"\'> )]+'
LOADED = re.compile(
    rf'<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc={OTHER_HOST}'
    rf'|<link\b(?=[^>]*\brel=["\']?(?:stylesheet|preload|preconnect|icon|modulepreload))[^>]*\bhref={OTHER_HOST}'
    rf'|@import\s+(?:url\()?{OTHER_HOST}|\burl\({OTHER_HOST}'
)


def on_page_markdown(markdown, page, config, files):
    for number in blocks_without_language(markdown):
        log.warning('%s: the code block in line %d has no language', page.file.src_uri, number)


def blocks_without_language(markdown: str) -> list[int]:
    """Numbers of the lines, from 1, where a fenced block begins without a language."""
    found, fence = [], None
    for number, line in enumerate(markdown.splitlines(), 1):
        match = FENCE.match(line)
        if match and fence is None:
            fence = match[1]
            if not match[2].strip():
                found.append(number)
        elif match and match[1].startswith(fence) and not match[2].strip():
            fence = None
    return found


def on_post_build(config):
    for file in sorted(Path(config.site_dir).rglob('*')):
        if file.suffix in ('.html', '.css'):
            for match in LOADED.finditer(file.read_text(encoding='utf-8')):
                log.warning('%s loads from another host: %s', file.relative_to(config.site_dir), match[0])
