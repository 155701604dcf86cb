"""Starts Ray on this machine only: no dashboard, no usage report, its files in a temporary folder.

Both Ray peers need the same start and the same tidy end.
"""

import os
import shutil
import tempfile
from types import ModuleType

from bench.peers.measure import require

_OBJECT_STORE_BYTES = 128 * 1024 * 1024

PACKAGE = "ray[serve]>=2.40"


class RayCluster:
    """A Ray of one node that lives from construction to `stop`."""

    def __init__(self, cores: int) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        # Ray says so itself: without it, accelerators are hidden with a warning on each start.
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
        self.ray: ModuleType = require("ray", PACKAGE)
        # Ray's sockets lie below it, and a socket's path has at most 107 characters.
        self._folder = tempfile.mkdtemp(prefix="ray-")
        self.ray.init(
            address="local",
            num_cpus=cores,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=_OBJECT_STORE_BYTES,
            _temp_dir=self._folder,
            _node_ip_address="127.0.0.1",
        )

    def stop(self) -> None:
        """Ends Ray's processes and removes its files."""
        self.ray.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)
