"""The HTTP API of the coordinator."""

from maille_coordinator.api.app import create_app

__all__ = ["create_app"]
