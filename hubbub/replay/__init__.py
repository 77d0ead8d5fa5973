"""`hubbub replay`: play IRC logs into a group, one account for each nick, every line once and in order.

    hubbub replay --app-key KEY --app-secret SECRET --speed max --verify logs/

Order across senders: a group has one order, but connections do not. So a line is sent only after the line
before it was acked, unless both have the same sender: those share a connection, which keeps order. At full
speed nine tenths of the time are spent waiting for those acks: the server's answer time is the speed.

Each line has a client id made of its file and number, so a replay that was killed finds the last line that is
stored and goes on after it; whatever was under way is sent again and stored once.

Accounts are made through an app key. The tokens of the nicks are signed here (JWT), so nobody logs in. A
server grants one address a few hundred connections at once and then some per second (`connections_per_s`);
at full speed a replay with more nicks waits for that, unless the server was started with more, or runs on
the same machine, to which it grants any number.
"""

from hubbub.replay.command import add_arguments, run
from hubbub.replay.plan import read_plan
from hubbub.replay.replayer import Replayer, Summary, open_replay, replay
from hubbub.replay.settings import Settings

__all__ = [
    "Replayer",
    "Settings",
    "Summary",
    "add_arguments",
    "open_replay",
    "read_plan",
    "replay",
    "run",
]
