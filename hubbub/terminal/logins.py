"""Log-ins of a person at a terminal, kept between runs."""

import os
from pathlib import Path

import msgspec


class SavedLogin(msgspec.Struct, kw_only=True):
    """What is kept of a log-in."""

    token: str
    username: str
    device_id: str


class LoginFile:
    """Log-ins by server, in a file of mode 0600."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def default(cls) -> "LoginFile":
        """$XDG_CONFIG_HOME/hubbub/logins.json, or the same under ~/.config."""
        base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
        return cls(Path(base) / "hubbub" / "logins.json")

    def load(self, server: str) -> SavedLogin | None:
        return self._all().get(server)

    def save(self, server: str, login: SavedLogin | None) -> None:
        """Keep a log-in, or forget it. The old file stays whole until the new one is."""
        logins = self._all()
        if login is None:
            logins.pop(server, None)
        else:
            logins[server] = login
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._path.with_suffix(f".{os.getpid()}.new")
        # The mode is set at birth: there is no moment at which others could read it.
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.encode(logins))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)

    def _all(self) -> dict[str, SavedLogin]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, SavedLogin])
        except (FileNotFoundError, msgspec.DecodeError):
            return {}
