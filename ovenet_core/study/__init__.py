"""Results of runs become tables, claims and reports: this room owns what is said of runs, not how they are made."""

from ovenet_core.study.claims import MIN_SEEDS, Claim, band_width_table, claims, gain_decomposition, tested_table
from ovenet_core.study.comparison import Study
from ovenet_core.study.grid import SCORING_NOTEBOOKS, Grid, GridRun, scores, state_table, summarize
from ovenet_core.study.offset_analysis import DISTANCES, MAPS, ORACLE_SEEDS, SHARES, Analysis, analyse
from ovenet_core.study.report import Report
from ovenet_core.study.results import find_runs, select_runs
from ovenet_core.study.tables import NEXT_SEED_COMMAND

# fmt: off
__all__ = [
    "DISTANCES", "MAPS", "MIN_SEEDS", "NEXT_SEED_COMMAND", "ORACLE_SEEDS", "SCORING_NOTEBOOKS", "SHARES",
    "Analysis", "Claim", "Grid", "GridRun", "Report", "Study", "analyse", "band_width_table", "claims", "find_runs",
    "gain_decomposition", "scores", "select_runs", "state_table", "summarize", "tested_table",
]
# fmt: on
