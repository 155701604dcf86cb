"""Start the node.

With a network: Ctrl-C in the first two seconds, or at any time after, leads to the REPL. On USB, where
Ctrl-C may come from a gateway: Enter, then Ctrl-C, while no gateway uses the port.
"""

import sys
import time

import maille

on_usb = maille.on_usb()
if not on_usb:
    print("maille starts in 2 s; Ctrl-C stops it here")
    time.sleep(2)
try:
    maille.main()
except KeyboardInterrupt:
    print("maille: stopped by hand; Ctrl-D starts again")
except Exception as error:  # noqa: BLE001 - a board without a person must come back by itself
    sys.print_exception(error)
    if on_usb:
        from maille.serial_node import pause

        pause(10)
    else:
        time.sleep(10)
    import machine

    machine.reset()
