"""`hubbub chat`: a terminal client for one person.

Owns the prompt (what the person types), the screen (what is shown) and the watcher (what happens elsewhere).
Everything that the server can do, it does through `hubbub.Client`, as any other program would.
"""

from hubbub.terminal.command import add_arguments, run

__all__ = ["add_arguments", "run"]
