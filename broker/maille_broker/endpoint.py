"""Where a broker is and how to log in: `mqtt://` addresses to one value and back."""

import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from maille_broker.errors import BrokerConfigError

DEFAULT_PORT = 1883
DEFAULT_TLS_PORT = 8883


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One broker address with the credentials to use there.

    `ca_file` names a PEM file of the authorities to trust instead of the system's (TLS only).
    The password is in no `repr` and in no `url`.
    """

    host: str
    port: int
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None

    @property
    def url(self) -> str:
        """The address as a URL, with the user name and never with the password."""
        scheme = "mqtts" if self.tls else "mqtt"
        host = f"[{self.host}]" if ":" in self.host else self.host
        login = f"{quote(self.username, safe='')}@" if self.username else ""
        return f"{scheme}://{login}{host}:{self.port}"

    def with_credentials(self, username: str | None, password: str | None) -> "Endpoint":
        """The same address with other credentials."""
        return replace(self, username=username, password=password)

    def tls_context(self) -> ssl.SSLContext | None:
        """A client's TLS context (certificate and host name are checked), None without TLS.

        Raises:
            BrokerConfigError: the file of trusted authorities cannot be read.
        """
        if not self.tls:
            return None
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise BrokerConfigError(
                f"The certificate file {self.ca_file} cannot be used ({error}). "
                "Give the PEM file of the authority that signed the broker's certificate."
            ) from error


def parse_url(text: str, *, ca_file: str | Path | None = None) -> Endpoint:
    """Read `mqtt://[user[:password]@]host[:port]` or `mqtts://…` (TLS).

    Raises:
        BrokerConfigError: it is not such an address; the message says what to write instead.
    """
    shape = "Write it as mqtt://host:1883, mqtt://user:password@host:1883 or mqtts://host:8883."
    # The text may hold a password, so no message below repeats it.
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as error:
        raise BrokerConfigError(
            f"The broker address cannot be read: its port or host is malformed. {shape}"
        ) from error
    if parts.scheme not in {"mqtt", "mqtts"}:
        found = f"'{parts.scheme}://'" if parts.scheme and "//" in text else "no 'mqtt://'"
        raise BrokerConfigError(f"The broker address starts with {found}. {shape}")
    if not parts.hostname:
        raise BrokerConfigError(f"The broker address names no host. {shape}")
    if port == 0:
        raise BrokerConfigError(f"The broker address has port 0, which nothing can use. {shape}")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise BrokerConfigError(
            "The broker address has something after the port. MQTT addresses have no path; "
            f"a '/', '?' or '#' in a password must be percent-encoded. {shape}"
        )
    username = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password is not None else None
    if password is not None and username is None:
        raise BrokerConfigError(f"The broker address has a password but no user name. {shape}")
    tls = parts.scheme == "mqtts"
    if ca_file is not None and not tls:
        raise BrokerConfigError(
            "A certificate file was given, but the address is mqtt:// (not encrypted). "
            "Use mqtts://, or leave the certificate file out."
        )
    return Endpoint(
        host=parts.hostname,
        port=port or (DEFAULT_TLS_PORT if tls else DEFAULT_PORT),
        tls=tls,
        username=username,
        password=password,
        ca_file=str(ca_file) if ca_file is not None else None,
    )
