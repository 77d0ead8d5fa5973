"""Logs on disk, read into a plan."""

from collections.abc import Sequence
from pathlib import Path

from hubbub.irc import Plan, parse_log, plan
from hubbub.replay.settings import MAX_MEMBERS


def read_plan(paths: Sequence[Path], *, max_members: int = MAX_MEMBERS) -> Plan:
    """Read log files, and the .txt and .log files of folders, in the order of their names.

    Raises: OSError, ValueError where there is nothing to play.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(child for child in path.iterdir() if child.suffix in (".txt", ".log"))
        else:
            files.append(path)
    if not files:
        raise ValueError("there is no .txt or .log file to play")
    return plan((parse_log(file.name, file.read_bytes()) for file in files), max_members=max_members)
