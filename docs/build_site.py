"""Builds the site: `make docs`, or `python docs/build_site.py`.

The pages in `docs/` are written to be read as files. Here they are copied to
`build/docs`, and what they link to outside of it becomes a page as well: a module of
safex its API page, any other file a listing. A link to something that is not there is
an error, as is every warning of Sphinx. No page asks for anything from the network.
"""

import os
import re
import shutil
import sys
from pathlib import Path, PurePosixPath

from sphinx.cmd.build import main as sphinx_build

ROOT = Path(__file__).resolve().parents[1]
PAGES, SITE = ROOT / "build" / "docs", ROOT / "build" / "site"
# Files above `docs/` that are pages of the site.
ABOVE = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
ABOVE["CONTRIBUTING.md"] = "contributing.md"
# Sections of the navigation. What is not there yet is left out; a page that is in no
# section comes under "More".
NAVIGATION = {
    "Use": [
        "launching",
        "configuration",
        "suites",
        "reading_results",
        "manual_loop",
        "safety_filter",
        "extending",
        "gallery",
    ],
    "Tasks": ["tasks/*"],
    "Methods": ["methods", "model_free", "methods/*", "models", "uncertainty"],
    "Evidence": ["results", "reliability", "performance", "decisions"],
    "More": [],
}
_LINK = re.compile(r"(?<!\\)\]\(\s*<?([^)\s>]+)>?(\s+\"[^\"]*\")?\s*\)")
_REMOTE = re.compile(r"^[a-z]+:")


class BrokenLinkError(Exception):
    """A page links to what is not there."""


def prepare(root: Path = ROOT, pages: Path = PAGES) -> None:
    """Writes all that Sphinx reads.

    Args:
      root: of the project.
      pages: folder to write; removed first.

    Raises:
      BrokenLinkError: names every page and its link.
    """
    shutil.rmtree(pages, ignore_errors=True)
    ignored = shutil.ignore_patterns("*.py", "__pycache__")
    shutil.copytree(root / "docs", pages, ignore=ignored)
    shutil.copy(root / "docs" / "conf.py", pages)
    listed: set[str] = set()
    broken: list[str] = []
    written = [str(path.relative_to(root)) for path in _markdown(root / "docs")]
    for name in [*written, *(name for name in ABOVE if (root / name).exists())]:
        page = pages / _page_of(name)
        text = _relocated(root, name, listed, broken)
        page.write_text(text, encoding="utf-8")
    if broken:
        raise BrokenLinkError("\n".join(["broken links:", *broken]))
    for name in sorted(listed):
        _write_listing(root, pages, name)
    modules = _write_api(root, pages)
    with (pages / "index.md").open("a", encoding="utf-8") as file:
        file.write(_navigation(pages, modules, sorted(listed)))


def _markdown(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.md"))


def _page_of(name: str) -> str:
    """The page, within the site, of a file of the project."""
    if name in ABOVE:
        return ABOVE[name]
    if name.startswith("docs/") and name.endswith(".md"):
        return name.removeprefix("docs/")
    if name.startswith("safex/") and name.endswith(".py"):
        return f"api/{_module(name)}.md"
    return f"source/{name}.md"


def _module(name: str) -> str:
    dotted = name.removesuffix(".py").replace("/", ".")
    return dotted.removesuffix(".__init__")


def _relocated(root: Path, name: str, listed: set[str], broken: list[str]) -> str:
    """The text of a file with its links as the site has them."""
    folder = PurePosixPath(name).parent
    here = PurePosixPath(_page_of(name)).parent

    def move(match: re.Match[str]) -> str:
        target, _, anchor = match[1].partition("#")
        if not target or _REMOTE.match(target):
            return match[0]
        found = os.path.normpath(folder / target)
        path = root / found
        if not path.exists():
            broken.append(f"  {name}: {match[1]}")
            return match[0]
        if path.is_dir():
            inside = path / "__init__.py"
            if not inside.exists():
                broken.append(f"  {name}: {match[1]} is a folder without a page")
                return match[0]
            found = f"{found}/__init__.py"
        if path.suffix in (".png", ".jpg", ".svg", ".gif"):
            page = found.removeprefix("docs/")
        else:
            page = _page_of(found)
            if page.startswith("source/"):
                listed.add(found)
        moved = os.path.relpath(page, here)
        return f"]({moved}{'#' + anchor if anchor else ''}{match[2] or ''})"

    text = (root / name).read_text(encoding="utf-8")
    # Only outside of code: every second part is inside of a fence.
    parts = re.split(r"(^```.*?^```\s*$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if part.startswith("```") else _LINK.sub(move, part) for part in parts
    )


def _write_listing(root: Path, pages: Path, name: str) -> None:
    page = pages / _page_of(name)
    page.parent.mkdir(parents=True, exist_ok=True)
    language = {".py": "python", ".yaml": "yaml", ".toml": "toml"}
    kind = language.get(PurePosixPath(name).suffix, "text")
    target = os.path.relpath(root / name, page.parent)
    page.write_text(
        f"# {name}\n\n```{{literalinclude}} {target}\n:language: {kind}\n"
        ":linenos:\n```\n",
        encoding="utf-8",
    )


def _write_api(root: Path, pages: Path) -> list[str]:
    """One page a module; returns their names, without what is empty."""
    modules = []
    for path in sorted((root / "safex").rglob("*.py")):
        name = str(PurePosixPath(path.relative_to(root)))
        page = pages / _page_of(name)
        page.parent.mkdir(exist_ok=True)
        module = _module(name)
        page.write_text(
            f"# {module}\n\n```{{eval-rst}}\n.. automodule:: {module}\n"
            "   :members:\n   :show-inheritance:\n```\n",
            encoding="utf-8",
        )
        modules.append(module)
    return modules


def _navigation(pages: Path, modules: list[str], listed: list[str]) -> str:
    found = {
        str(PurePosixPath(path.relative_to(pages)).with_suffix(""))
        for path in _markdown(pages)
    }
    found = {page for page in found if not page.startswith(("api/", "source/"))}
    left = found - {"index"}
    trees = []
    for section, names in NAVIGATION.items():
        entries: list[str] = []
        for name in names:
            pattern = re.compile(re.escape(name).replace(r"\*", "[^/]+") + "$")
            chosen = sorted(page for page in left if pattern.match(page))
            entries += chosen
            left -= set(chosen)
        trees.append((section, entries))
    trees[-1] = (trees[-1][0], [*trees[-1][1], *sorted(left)])
    trees.append(("API", [f"api/{module}" for module in modules]))
    trees.append(("Files", [f"source/{name}" for name in listed]))
    return "".join(_tree(section, entries) for section, entries in trees if entries)


def _tree(section: str, entries: list[str]) -> str:
    hidden = f"\n```{{toctree}}\n:hidden:\n:caption: {section}\n:maxdepth: 1\n\n"
    return hidden + "\n".join(entries) + "\n```\n"


def main() -> int:
    """Prepares the pages and lets Sphinx write them; its exit status."""
    try:
        prepare()
    except BrokenLinkError as error:
        print(error, file=sys.stderr)
        return 1
    shutil.rmtree(SITE, ignore_errors=True)
    # Autodoc imports safex from here, whatever is installed.
    sys.path.insert(0, str(ROOT))
    options = ["-b", "html", "-W", "--keep-going", "-q", "-j", "auto"]
    status = sphinx_build([*options, str(PAGES), str(SITE)])
    if status == 0:
        shutil.rmtree(SITE / ".doctrees", ignore_errors=True)
        print(f"the site is in {SITE.relative_to(ROOT)}/index.html")
    return status


if __name__ == "__main__":
    sys.exit(main())
