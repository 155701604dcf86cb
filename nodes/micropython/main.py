"""Start the node; Ctrl-C in the first two seconds, or at any time after, leads to the REPL."""

import sys
import time

print("maille starts in 2 s; Ctrl-C stops it here")
time.sleep(2)
try:
    from maille import main

    main()
except KeyboardInterrupt:
    print("maille: stopped by hand; Ctrl-D starts again")
except Exception as error:  # noqa: BLE001 - a board without a person must come back by itself
    sys.print_exception(error)
    time.sleep(10)
    import machine

    machine.reset()
