"""Real time: processes of the real parts, behind a proxy that hurts their connections."""
