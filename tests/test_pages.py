"""The code on pages runs: tutorials as a whole, the Python of all others."""

import re
from pathlib import Path

import pytest
import torch
from helpers.checkout import ROOT
from helpers.pages import PageError, blocks, run_page

TUTORIALS = sorted(ROOT.glob('docs/tutorials/*.md'))
QUICK = ('torch_layer',)  # the other tutorials take minutes
# blocks of pages that are not run, by a text in them
WITHOUT = {
    'docs/explanation/attention_as_convolution.md': 'cifar10',  # data that have to be downloaded
    'docs/guides/export.md': 'export',  # tests/layers/test_layer_export.py exports every layer
}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def has_python(page: Path) -> bool:
    left_out = WITHOUT.get(name_of(page))
    return any(
        block.language == 'python' and (left_out is None or left_out not in block.code)
        for block in blocks(page.read_text(encoding='utf-8'))
    )


PAGES = [
    page
    for page in sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md')])
    if page not in TUTORIALS and has_python(page)
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder, as a newcomer has it, with random numbers that do not depend on other tests."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    return tmp_path


@pytest.mark.parametrize(
    'page',
    [pytest.param(page, id=page.stem, marks=[] if page.stem in QUICK else pytest.mark.slow) for page in TUTORIALS],
)
def test_tutorials(page):
    run_page(page)


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_python_of_other_pages(page):
    run_page(page, languages=('python',), without=WITHOUT.get(name_of(page)))


def page_of(folder: Path, text: str) -> Path:
    page = folder / 'page.md'
    page.write_text(text)
    return page


PAGE = """
# A page

```python
x = 2
```

```shell
cat > made.py <<'END'
y = 3.5
END
```

1. in a list:
   ```python
   exec(open("made.py").read())
   print("a", "b", sep="\\n")
   print(f"{x}  {y} of   1e-7 -----")
   ```

```text
a
...
7 8.25 of 3.1e-05 -
```

```none
not printed
```

```text
this neither, and not directly behind code
```
"""


def test_blocks_share_names_and_a_folder(folder):
    run_page(page_of(folder, PAGE))


@pytest.mark.parametrize(
    'text, said',
    [
        (
            'Words\n\n```python\nprint("before")\nassert 1 == 2\n```\n',
            ['page.md:4: this block fails', 'before', 'line 5'],
        ),
        ('```python\nx = (\n```\n', ['page.md:2', 'SyntaxError']),
        ('```shell\necho before\nls nothing-here | cat\necho behind\n```\n', ['page.md:2', 'exit status 2', 'before']),
        ('```shell\necho "$NOT_SET"\n```\n', ['page.md:2', 'NOT_SET: unbound variable']),
        (
            '```python\nprint("error 0.5\\nbound 2")\n```\n\n```text\nbound 2\nerror 0.5\n```\n',
            ['page.md:6: the code above does not print', '    error 0.5'],
        ),
        ('```python\nprint("mIoU nan")\n```\n\n```text\nmIoU 95.1\n```\n', ['page.md:6', '    mIoU 95.1', 'mIoU nan']),
    ],
)
def test_a_block_that_fails_names_page_line_and_output(folder, text, said):
    with pytest.raises(PageError) as error:
        run_page(page_of(folder, text))
    assert all(re.search(re.escape(part), str(error.value)) for part in said), error.value
    assert 'behind' not in str(error.value)


def test_pages_with_code_are_found():
    assert ROOT / 'README.md' in PAGES and ROOT / 'docs/guides/memory_free.md' in PAGES
    assert all(text in (ROOT / page).read_text(encoding='utf-8') for page, text in WITHOUT.items())
