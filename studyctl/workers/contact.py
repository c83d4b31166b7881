"""How a study's workers on other machines find its runner: one file in the study's folder, which only its owner can read.

It holds the address of the runner's scheduler and the certificate with its key, by which both sides prove that they belong to the
study: an open scheduler on a login node would run anybody's code.
"""

import os
import stat
from pathlib import Path
from uuid import uuid4

import msgspec
from distributed.security import Security

from studyctl.errors import StudyError
from studyctl.files import open_plain, sync_folder


class Contact(msgspec.Struct, frozen=True):
    """The content of ``cluster.json``."""

    address: str
    token: str
    """Of the runner's hold."""
    certificate: str
    key: str

    @property
    def security(self) -> Security:
        """Return what connections need."""
        return Security(
            require_encryption=True,
            tls_ca_file=self.certificate,
            **{
                f"tls_{role}_{part}": value
                for role in ("client", "scheduler", "worker")
                for part, value in (("cert", self.certificate), ("key", self.key))
            },
        )


def new_security() -> tuple[str, str]:
    """Return a new certificate, which signs itself, and its key; PEM."""
    security = Security.temporary()
    return security.tls_ca_file, security.tls_scheduler_key


def write_contact(path: Path, contact: Contact) -> None:
    """Replace the file; at no time can others read the key."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.encode(contact))
        file.flush()
        os.fsync(handle)
    temporary.replace(path)
    sync_folder(path.parent)


def read_contact(path: Path) -> Contact | None:
    """Return how to reach the runner; None if there is none now.

    Raises:
        StudyError: somebody else could have written the file: whom it names could run code as this user.
    """
    try:
        with open_plain(path) as file:
            about = os.fstat(file.fileno())
            if about.st_uid != os.getuid() or about.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                hint = "delete it; the next run writes a new one"
                raise StudyError(f"{path} is not yours alone, so it is not used", file=path, hint=hint)
            return msgspec.json.decode(file.read(), type=Contact)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
