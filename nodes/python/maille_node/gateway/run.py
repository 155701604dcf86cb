"""One gateway as a whole process: signals, event loop, exit code."""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable

from maille_broker import BrokerConfigError, loop_factory
from maille_node.errors import SettingsError
from maille_node.gateway.service import GatewayService
from maille_node.gateway.settings import GatewaySettings

logger = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_SETTINGS = 2


def run_gateway(
    settings: GatewaySettings,
    *,
    beside: Callable[[GatewayService], Awaitable[None]] | None = None,
) -> int:
    """Run a gateway until SIGTERM or SIGINT; call it in the main thread.

    Args:
        settings: what it needs to know.
        beside: runs next to it, for instance a display; cancelled at the end.

    Returns:
        The process's exit code: 0, or 2 for settings that cannot work (logged with the next step).
    """
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_serve(GatewayService(settings), beside))
    except (SettingsError, BrokerConfigError) as error:
        logger.error("%s", error)  # noqa: TRY400 - a traceback tells a user nothing
        return EXIT_SETTINGS
    return EXIT_OK


async def _serve(
    service: GatewayService, beside: Callable[[GatewayService], Awaitable[None]] | None
) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stop)
    companion = None if beside is None else asyncio.ensure_future(beside(service))
    try:
        await service.run()
    finally:
        if companion is not None:
            companion.cancel()
            await asyncio.gather(companion, return_exceptions=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
