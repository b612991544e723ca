"""Files, locks, provenance and processes; nothing of the method."""

from .config import config_dataclass
from .distributed import (
    all_gather,
    all_reduce_sum,
    all_smallest,
    barrier,
    broadcast,
    counted_alone,
    process_group,
    rank,
    world_size,
)
from .errors import ConfigError, DataError, OVeNetError, RunError, SnapshotError, WeightsError, WriteError
from .files import remove_unfinished, run_folder_lock, short_hash, write_atomically, write_json
from .provenance import commit, peak_memory, provenance
from .state_file import read_state
from .suggest import did_you_mean, nearest, right_name

# fmt: off
__all__ = [
    "ConfigError", "DataError", "OVeNetError", "RunError", "SnapshotError", "WeightsError", "WriteError",
    "all_gather", "all_reduce_sum", "all_smallest", "barrier", "broadcast", "commit", "config_dataclass",
    "counted_alone", "did_you_mean", "nearest", "peak_memory", "process_group", "provenance", "rank", "read_state",
    "remove_unfinished", "right_name", "run_folder_lock", "short_hash", "world_size", "write_atomically", "write_json",
]
# fmt: on
