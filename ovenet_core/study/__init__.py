"""From the results of runs to tables, claims and reports."""

from ovenet_core.study.claims import MIN_SEEDS, NEXT, claims, gain_decomposition, table, widths
from ovenet_core.study.comparison import Study
from ovenet_core.study.grid import SCORING, Grid, GridRun, scores, state_table, summarize
from ovenet_core.study.offset_analysis import DISTANCES, MAPS, ORACLE_SEEDS, SHARES, Analysis, analyse
from ovenet_core.study.report import Report
from ovenet_core.study.results import find_runs, select_runs

__all__ = [
    "DISTANCES",
    "MAPS",
    "MIN_SEEDS",
    "NEXT",
    "ORACLE_SEEDS",
    "SCORING",
    "SHARES",
    "Analysis",
    "Grid",
    "GridRun",
    "Report",
    "Study",
    "analyse",
    "claims",
    "find_runs",
    "gain_decomposition",
    "scores",
    "select_runs",
    "state_table",
    "summarize",
    "table",
    "widths",
]
