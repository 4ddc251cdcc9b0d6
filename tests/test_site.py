"""The site's links: what they become, and that a broken one is an error.

The site itself is built by `make docs`, with packages that the tests do not have.
"""

import importlib.util
import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site():
    """`docs/build_site.py`, with a stand-in where Sphinx is not installed."""
    missing = types.ModuleType("sphinx.cmd.build")
    missing.main = None
    names = ("sphinx", "sphinx.cmd", "sphinx.cmd.build")
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setitem(sys.modules, name, missing)
        path = ROOT / "docs" / "build_site.py"
        spec = importlib.util.spec_from_file_location("build_site", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def project(folder, text):
    for name in ("docs/tasks", "safex/models", "tests"):
        (folder / name).mkdir(parents=True)
    files = {
        "docs/conf.py": "",
        "docs/page.md": text,
        "docs/tasks/one.md": "# One",
        "docs/figure.png": "",
        "safex/__init__.py": "",
        "safex/models/gp.py": "",
        "tests/test_gp.py": "",
        "README.md": "# Home\n[page](docs/page.md)",
    }
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder, folder / "build"


def test_links_lead_to_pages(site, tmp_path):
    text = (
        "# Page\n[a](tasks/one.md#x) [b](../safex/models/gp.py) [c](../README.md)\n"
        "[d](../tests/test_gp.py) ![e](figure.png) [f](https://a.b) [g](#page)\n"
        "```python\nx[0](missing.md)\n```\n"
    )
    root, pages = project(tmp_path, text)
    site.prepare(root, pages)
    page = (pages / "page.md").read_text()
    for link in (
        "[a](tasks/one.md#x)",
        "[b](api/safex.models.gp.md)",
        "[c](index.md)",
        "[d](source/tests/test_gp.py.md)",
        "![e](figure.png)",
        "[f](https://a.b)",
        "[g](#page)",
        "x[0](missing.md)",
    ):
        assert link in page
    assert (
        "automodule:: safex.models.gp" in (pages / "api/safex.models.gp.md").read_text()
    )
    listing = (pages / "source/tests/test_gp.py.md").read_text()
    assert "literalinclude" in listing
    index = (pages / "index.md").read_text()
    assert "[page](page.md)" in index
    # Every page is in the navigation, also one that no section names.
    for entry in (
        "page",
        "tasks/one",
        "api/safex.models.gp",
        "source/tests/test_gp.py",
    ):
        assert f"\n{entry}\n" in index


def test_a_broken_link_is_an_error(site, tmp_path):
    root, pages = project(tmp_path, "[a](nowhere.md) [b](../tests)")
    with pytest.raises(site.BrokenLinkError) as error:
        site.prepare(root, pages)
    assert "docs/page.md: nowhere.md" in str(error.value)
    assert "../tests is a folder without a page" in str(error.value)


def test_no_link_of_this_project_is_broken(site, tmp_path):
    site.prepare(ROOT, tmp_path / "pages")
    index = (tmp_path / "pages" / "index.md").read_text()
    for page in ("methods/minmax", "tasks/pendulum", "gallery", "extending"):
        assert f"\n{page}\n" in index


def test_every_method_has_a_page_with_its_equations():
    pages = {
        path.stem: path.read_text() for path in (ROOT / "docs" / "methods").iterdir()
    }
    for path in sorted((ROOT / "experiments" / "config" / "method").glob("*.yaml")):
        link = f"](../../experiments/config/method/{path.name})"
        (page,) = (name for name, text in pages.items() if link in text)
        assert "$$" in pages[page] or "```" in pages[page], page


def cells_of(text):
    """How many cells each row of each table has, tables apart by a None."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for line in outside.splitlines():
        row = line.strip().startswith("|")
        yield len(re.findall(r"(?<!\\)\|", line)) - 1 if row else None


def test_every_row_of_a_table_has_as_many_cells_as_its_head():
    # A bar within a cell, also in code, must be written as \|.
    assert list(cells_of("| a |\n| --- |\n| `|b|` |")) == [1, 1, 3]
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        head = None
        for number, cells in enumerate(cells_of(path.read_text()), 1):
            head = cells if head is None or cells is None else head
            assert cells == head, f"{path.relative_to(ROOT)}, row {number}"
