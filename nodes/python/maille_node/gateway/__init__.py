"""The serial gateway: stands in the mesh for boards that have nothing but a serial line.

`port` speaks with one line, `board` decides for one board, `member` is its connection to the
mesh, `service` finds the lines and holds everything together.
"""

from maille_node.gateway.run import run_gateway
from maille_node.gateway.service import GatewayService
from maille_node.gateway.settings import GatewaySettings

__all__ = ["GatewayService", "GatewaySettings", "run_gateway"]
