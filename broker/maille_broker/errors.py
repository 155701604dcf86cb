"""Everything that can go wrong between Maille and a broker, named by what the caller can do.

    BrokerError                  base of all
    ├── BrokerConfigError        fix your settings (an address, a password without a user name…)
    │   └── PortInUse            choose another port, or stop the program that holds it
    ├── BrokerUnavailable        try again later: nothing answers, or it stopped answering
    ├── BrokerRefused            fix the credentials or their rights: the broker said no
    └── BrokerMissing            install the broker program; the message says how

Every message names the cause and the next step, and never a password.
"""


class BrokerError(Exception):
    """Base of all broker errors."""


class BrokerConfigError(BrokerError):
    """The settings cannot work as they are."""


class PortInUse(BrokerConfigError):
    """Another program listens on the wanted port."""


class BrokerUnavailable(BrokerError):
    """No broker answers at the address, or it stopped answering; a retry may succeed."""


class BrokerRefused(BrokerError):
    """The broker answered and refused the login or a subscription; a retry will not help."""


class BrokerMissing(BrokerError):
    """The broker program is not installed."""
