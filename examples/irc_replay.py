"""Play logs of IRC channels into a group; the same as `hubbub replay`.

    .venv/bin/hubbub keys create
    HUBBUB_APP_KEY=… HUBBUB_APP_SECRET=… .venv/bin/python examples/irc_replay.py --speed 60 --watch ann logs/

One account for each nick; joins, parts, kicks and renames included. Killed and started again, it goes on
after the last line that is stored. `--verify` reads everything back. How a replay keeps one order across
many senders is told in hubbub/replay/__init__.py.
"""

import argparse
import sys

from hubbub import replay


def main() -> int:
    """Read the arguments and play."""
    parser = argparse.ArgumentParser(description="Play logs of IRC channels into a group.")
    replay.add_arguments(parser)
    return replay.run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
