"""The `maille` command as a user types it."""

import subprocess
import sys
from collections.abc import Mapping

from real_mesh import RealMesh


def maille(
    mesh: RealMesh,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, with the mesh's directories and nothing else known."""
    return subprocess.run(
        [sys.executable, "-m", "maille.cli", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**mesh.environment(), **(environment or {})},
        check=False,
    )


def refused(
    mesh: RealMesh, *arguments: str, code: int, environment: Mapping[str, str] | None = None
) -> str:
    """What a command that must fail with this exit code says, in one line; never a traceback."""
    done = maille(mesh, *arguments, environment=environment)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())
