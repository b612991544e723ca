"""Files, locks, provenance and processes; nothing of the method."""

from ovenet_core.utils.config import config_dataclass
from ovenet_core.utils.distributed import (
    all_gather,
    all_reduce_sum,
    barrier,
    broadcast,
    global_smallest,
    process_group,
    rank,
    world_size,
)
from ovenet_core.utils.errors import (
    ConfigError,
    DataError,
    OVeNetError,
    RunError,
    SnapshotError,
    WeightsError,
    WriteError,
)
from ovenet_core.utils.files import remove_unfinished, run_folder_lock, short_hash, write_atomically, write_json
from ovenet_core.utils.provenance import commit, peak_memory, provenance
from ovenet_core.utils.suggest import did_you_mean, nearest, right_name

# fmt: off
__all__ = [
    "ConfigError", "DataError", "OVeNetError", "RunError", "SnapshotError", "WeightsError", "WriteError",
    "all_gather", "all_reduce_sum", "barrier", "broadcast", "commit", "config_dataclass", "did_you_mean",
    "global_smallest", "nearest", "peak_memory", "process_group", "provenance", "rank", "remove_unfinished",
    "right_name", "run_folder_lock", "short_hash", "world_size", "write_atomically", "write_json",
]
# fmt: on
