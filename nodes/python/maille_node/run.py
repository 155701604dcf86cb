"""One node as a whole process: signals, event loop, exit code."""

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Coroutine
from typing import TypeVar

from maille_broker import BrokerConfigError, BrokerError, BrokerRefused, loop_factory
from maille_node.errors import SettingsError
from maille_node.events import StopReason
from maille_node.service import NodeService
from maille_node.settings import NodeSettings

logger = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_UNFINISHED = 1
EXIT_SETTINGS = 2
EXIT_REFUSED = 3
EXIT_UNREACHABLE = 4
EXIT_DUPLICATE = 5

Value = TypeVar("Value")


def run_node(
    settings: NodeSettings, *, on_service: Callable[[NodeService], None] | None = None
) -> int:
    """Run a node until SIGTERM or SIGINT has drained it; call it in the main thread.

    Returns:
        The process's exit code; what went wrong has been logged as an error with the next step:
        0 drained, 1 stopped with tasks unfinished, 2 settings, 3 the broker refused the login,
        4 no broker answered, 5 another node has this id.
    """
    service = NodeService(settings)
    if on_service is not None:
        on_service(service)
    try:
        stop = _run_loop(_serve(service))
    except (SettingsError, BrokerConfigError) as error:
        logger.error("%s", error)  # noqa: TRY400 - a traceback tells a user nothing
        return EXIT_SETTINGS
    except BrokerRefused as error:
        logger.error("%s", error)  # noqa: TRY400
        return EXIT_REFUSED
    except BrokerError as error:
        logger.error("%s", error)  # noqa: TRY400
        return EXIT_UNREACHABLE
    match stop:
        case StopReason.DRAINED:
            return EXIT_OK
        case StopReason.STOPPED:
            return EXIT_UNFINISHED
        case StopReason.DUPLICATE:
            return EXIT_DUPLICATE


async def _serve(service: NodeService) -> StopReason:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.request_drain)
    # What was imported stays for ever: a collection need not look at it again and again.
    gc.collect()
    gc.freeze()
    try:
        stop = await service.run()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    level = logging.INFO if stop.reason is StopReason.DRAINED else logging.ERROR
    logger.log(level, "node %s stopped: %s", service.node, stop.text)
    return stop.reason


def _run_loop(work: Coroutine[None, None, Value]) -> Value:
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(work)
