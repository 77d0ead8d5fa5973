"""The servers of `hubbub bench feed`: a hubbub whose store has a graph's people, or Redis with the same."""

import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.feed_commands import write_by_commands
from bench.feed_graph import HOT_FOLLOWERS, Graph, Statistics, statistics
from bench.feed_rows import HISTORY, Loaded, active_share_of, prepare, write
from bench.load.target import CannotRun, Cores, Hubbub, Target, make_app_key


class _Filled(msgspec.Struct, frozen=True, kw_only=True):
    """What stands beside a filled data directory: how to come in, and what it was filled with."""

    app_key: str
    app_secret: str
    hot_from: int
    history: int
    statistics: Statistics
    loaded: Loaded


class FeedWorld:
    """A graph, and a data directory that was filled from it once: each run gets a copy."""

    def __init__(
        self,
        graph: Graph,
        *,
        hot_from: int = HOT_FOLLOWERS,
        history: int = HISTORY,
        directory: Path | None = None,
        by_commands: bool = False,
    ) -> None:
        """`directory`: where to keep what was filled, for later runs; None: until this process ends.

        `by_commands`: people shall follow and post for real, which takes its time.
        """
        self.by_commands = by_commands
        self.graph = graph
        self.hot_from = hot_from
        self.history = history
        self.statistics = statistics(graph, hot_from=hot_from)
        self._kept = directory
        self._temporary: Path | None = None
        self._filled: _Filled | None = None

    @property
    def loaded(self) -> Loaded | None:
        """What was written, once it was."""
        return self._filled.loaded if self._filled else None

    def copy_to(self, data: Path) -> tuple[str, str]:
        """Make a data directory; return an app's key and secret for it. Raises: CannotRun.

        The first call fills the one that is copied, or finds it filled by an earlier run.
        """
        directory = self._kept
        if directory is None:
            if self._temporary is None:
                self._temporary = Path(tempfile.mkdtemp(prefix="hubbub-bench-people-"))
                weakref.finalize(self, shutil.rmtree, self._temporary, ignore_errors=True)
            directory = self._temporary
        if self._filled is None:
            self._filled = self._find(directory) or self._fill(directory)
        shutil.copytree(directory / "data", data)
        os.sync()  # half a gigabyte on its way to the disk would hold up the commits that are measured
        return self._filled.app_key, self._filled.app_secret

    def _find(self, directory: Path) -> _Filled | None:
        path = directory / "people.json"
        if not path.exists():
            return None
        filled = msgspec.json.decode(path.read_bytes(), type=_Filled)
        if (filled.hot_from, filled.history, filled.statistics) != (
            self.hot_from,
            self.history,
            self.statistics,
        ):
            raise CannotRun(f"{directory} was filled with other people: name another directory.")
        return filled

    def _fill(self, directory: Path) -> _Filled:
        directory.mkdir(parents=True, exist_ok=True)
        data = directory / "data"
        if data.exists():
            raise CannotRun(f"{directory} was not filled to its end: remove it, or name another directory.")
        prepare(data)
        app_key, app_secret = make_app_key(str(data))
        if self.by_commands:
            loaded = write_by_commands(
                directory,
                self.graph,
                cores=Cores(),
                history=self.history,
                active_share=active_share_of(self.graph),
            )
        else:
            loaded = write(data, self.graph, hot_from=self.hot_from, history=self.history)
        filled = _Filled(
            app_key=app_key,
            app_secret=app_secret,
            hot_from=self.hot_from,
            history=self.history,
            statistics=self.statistics,
            loaded=loaded,
        )
        (directory / "people.json").write_bytes(msgspec.json.encode(filled))
        return filled


class FeedTarget(Target):
    """A server that has the people of a graph."""

    def __init__(self, directory: Path, cores: Cores, *, world: FeedWorld) -> None:
        super().__init__(directory, cores)
        self.world = world

    @property
    def graph(self) -> Graph:
        return self.world.graph

    @property
    def hot_from(self) -> int:
        return self.world.hot_from

    @property
    def about(self) -> str:
        """For people: whose feeds these are."""
        loaded = f"; written: {self.world.loaded}" if self.world.loaded else ""
        return f"{self.graph.origin}: {self.world.statistics}{loaded}"

    def data_bytes(self) -> int:
        """What lies in the server's directory, in bytes."""
        return sum(
            path.stat().st_size
            for path in self.directory.rglob("*")
            if path.is_file() and path.suffix != ".log"
        )


class FeedHubbub(FeedTarget, Hubbub):
    """A hubbub whose store has the graph's people before it starts."""

    wires = Hubbub.wires

    def __init__(self, directory: Path, cores: Cores, *, world: FeedWorld, flags: Sequence[str] = ()) -> None:
        Hubbub.__init__(self, directory, cores, flags=flags)
        self.world = world

    def start(self) -> None:
        data = self.directory / "data"
        if not data.exists():
            self._app_key, self._app_secret = self.world.copy_to(data)
        super().start()
