"""Building the firmware of boards from the sources in `nodes/`."""
