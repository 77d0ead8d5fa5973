"""What a benchmark found, and how it is told.

Owns the results (`results.py`: one Struct per line of a JSON lines file), the arithmetic on them
(`statistics.py`, pure) and their three shapes: a table for the terminal, a page with charts, and Markdown
for the docs. `python -m bench.report FILE` tells a stored file again. Leaves the load, the processes and the
clock to the rest of `bench`; imports none of ours.
"""

from bench.report.markdown import to_markdown
from bench.report.picture import to_html
from bench.report.results import (
    CPU_PER_THOUSAND,
    Figure,
    Latency,
    Machine,
    Measurement,
    Point,
    ResultsUnreadable,
    Run,
    append_line,
    machine,
    read_lines,
    runs,
)
from bench.report.statistics import percentiles, ratios, series, summaries
from bench.report.table import to_table

__all__ = [
    "CPU_PER_THOUSAND",
    "Figure",
    "Latency",
    "Point",
    "Measurement",
    "Machine",
    "Run",
    "ResultsUnreadable",
    "machine",
    "append_line",
    "read_lines",
    "runs",
    "percentiles",
    "series",
    "summaries",
    "ratios",
    "to_table",
    "to_html",
    "to_markdown",
]
