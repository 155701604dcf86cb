"""A mesh's one secret, and the broker passwords made from it.

People copy one key from machine to machine; the broker still tells the roles apart, because each
role's password is derived from the key and says nothing about the others or about the key.
"""

import base64
import hashlib
import hmac
import secrets
from pathlib import Path

from maille.errors import SettingsError

MIN_KEY_CHARACTERS = 16
"""A key guards every device of a mesh against guessing on the network."""
ROLES = ("coordinator", "node", "client")


def new_key() -> str:
    """A random key of 128 bits, in four groups that a person can type."""
    text = base64.b32encode(secrets.token_bytes(20)).decode().lower()[:28]
    return "-".join(text[start : start + 7] for start in range(0, 28, 7))


def check_key(key: str) -> str:
    """The key, without blanks around it.

    Raises:
        SettingsError: too short, or with characters that cannot stand in a header.
    """
    key = key.strip()
    if len(key) < MIN_KEY_CHARACTERS or not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(
            f"The key must have at least {MIN_KEY_CHARACTERS} letters, digits or signs and no "
            "blanks. `maille up --lan` makes a good one."
        )
    return key


def password(key: str, mesh: str, role: str) -> str:
    """The broker's password of one role (see `ROLES`) in a mesh with this key."""
    digest = hmac.new(key.encode(), f"maille/1/{mesh}/{role}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest[:24]).decode()


def credentials(key: str, mesh: str) -> dict[str, str]:
    """User names and passwords for a broker of our own."""
    return {role: password(key, mesh, role) for role in ROLES}


def read_key_file(path: Path) -> str:
    """The key in a file's first line.

    Raises:
        SettingsError: no such file, or no key in it.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"The key file {path} cannot be read ({getattr(error, 'strerror', None) or error}). "
            "Give the path of a text file that holds the key."
        ) from error
    lines = text.splitlines()
    if not lines or not lines[0].strip():
        raise SettingsError(f"The key file {path} is empty. Write the mesh's key into it.")
    return check_key(lines[0])
