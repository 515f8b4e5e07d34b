"""DataTables for a page that is one file: the library's script and style, as `itables` ships them.

The library sorts, pages and filters a table that stands in the page as HTML. A reader without
scripts has the whole table.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

_EXPORTS = re.compile(r"\bexport\s*\{([^}]*)\}\s*;")
_LIBRARY = re.compile(r"([\w$]+) as default\b")


def table_style() -> str:
    """Return the style sheet of the library and ours over it."""
    return _bundle("dt_bundle.css") + _own("questions.css")


@cache
def table_script() -> str:
    """Return the module that makes a table of the element `questions`, for a `<script>` of HTML."""
    bundle = _bundle("dt_bundle.js")
    exports = [*_EXPORTS.finditer(bundle)][-1]
    library = _LIBRARY.search(exports[1])
    assert library is not None, "itables' bundle exports DataTables as its default"
    # What a module inside a page exports, nobody can import: the table is made in the same module.
    module = bundle[: exports.start()] + bundle[exports.end() :]
    return _inside_html(f"{module}\nconst DataTable = {library[1]};\n{_own('questions.js')}")


def _inside_html(script: str) -> str:
    """Return the script without what would change how a browser reads HTML up to its end. Both
    stand in strings and regular expressions alone, where `\\x3C` is the same character."""
    return re.sub(r"<(?=!--|/?script)", r"\\x3C", script, flags=re.IGNORECASE)


def _bundle(name: str) -> str:
    # Found and not imported: the package would import pandas, for a second.
    spec = find_spec("itables")
    assert spec is not None and spec.submodule_search_locations, "itables is a dependency"
    return (Path(spec.submodule_search_locations[0]) / "html" / name).read_text(encoding="utf-8")


def _own(name: str) -> str:
    return files("rzero_ray.run.report").joinpath("static", name).read_text(encoding="utf-8")
