"""Results of runs become tables, claims and reports: this room owns what is said of runs, not how they are made."""

from .claims import MIN_SEEDS, Claim, band_width_table, claims, gain_decomposition, tested_table
from .comparison import Study
from .grid import SCORING_NOTEBOOKS, Grid, GridRun, scores, state_table, summarize
from .offset_analysis import DISTANCES, MAPS, ORACLE_SEEDS, SHARES, Analysis, analyse
from .report import Report
from .results import find_runs, select_runs
from .tables import NEXT_SEED_COMMAND

# fmt: off
__all__ = [
    "DISTANCES", "MAPS", "MIN_SEEDS", "NEXT_SEED_COMMAND", "ORACLE_SEEDS", "SCORING_NOTEBOOKS", "SHARES",
    "Analysis", "Claim", "Grid", "GridRun", "Report", "Study", "analyse", "band_width_table", "claims", "find_runs",
    "gain_decomposition", "scores", "select_runs", "state_table", "summarize", "tested_table",
]
# fmt: on
