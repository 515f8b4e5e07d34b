"""Writes `summary.json` and `report.html` of a run."""

from __future__ import annotations

import json
from pathlib import Path

from rzero_ray.disk.files import write_text_durably
from rzero_ray.run.report.page import make_page
from rzero_ray.run.report.summary import make_summary
from rzero_ray.run.rows import Row
from rzero_ray.run.stored import StoredRun


def write_report(run: StoredRun) -> tuple[Row, Path]:
    """Write both files; return what the first holds, and the path of the second.

    Neither is written where a file of the run that they need is damaged.
    """
    summary = make_summary(run)
    page = make_page(run, summary)
    write_text_durably(run.root / "summary.json", json.dumps(summary, indent=1))
    path = run.root / "report.html"
    write_text_durably(path, page)
    return summary, path
