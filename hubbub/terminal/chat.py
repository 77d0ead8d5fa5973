"""One person's chat from signing in to leaving.

It works from a pipe as well: whole lines are read then, and nobody is told that one types. The token is kept
in a file that only its owner can read, in the user's configuration folder, by server.
"""

import trio
from rich.text import Text

from hubbub.accounts import Accounts, http_bases
from hubbub.api import new_client_id
from hubbub.client import Client, connect
from hubbub.terminal.keyboard import Keyboard, TerminalKeyboard
from hubbub.terminal.logins import LoginFile, SavedLogin
from hubbub.terminal.prompt import Prompt
from hubbub.terminal.screen import Screen
from hubbub.terminal.text import clean
from hubbub.terminal.typing_marks import TypingMarks
from hubbub.terminal.watcher import Watcher
from protocol.errors import HubbubError, Refused


async def chat(url: str, keyboard: Keyboard, *, username: str, logins: LoginFile) -> int:
    """Sign in, by the kept token where there is one, and chat. Returns the exit status."""
    server = ",".join(http_bases(url))
    console = keyboard.console
    try:
        while True:  # ends with the chat; a token that the server has forgotten is asked for once more
            login = logins.load(server)
            if login is None or (username and login.username.casefold() != username.casefold()):
                login = await _sign_in(server, username, keyboard)
                logins.save(server, login)
            try:
                async with connect(
                    server,
                    token=login.token,
                    device_id=login.device_id,
                    focus=[],
                    client_name="hubbub-chat/0.1",
                ) as client:
                    if await _talk(client, keyboard):
                        logins.save(server, None)
                return 0
            except Refused as exc:
                if exc.code != "unauthenticated":
                    raise
                logins.save(server, None)
                console.print(Text("That log-in has ended; log in again.", style="red"))
    except HubbubError as exc:
        console.print(Text(exc.message, style="red"))
        return 1
    except EOFError:
        return 1


async def _sign_in(server: str, username: str, keyboard: Keyboard) -> SavedLogin:
    """Log in or sign up until it works. Raises: HubbubError where the server cannot be used, EOFError."""
    while True:  # ends with a log-in
        answer = ""
        while answer[:1] not in ("l", "s"):
            answer = (await keyboard.ask("(l)og in or (s)ign up? ")).casefold()
        name = username or await keyboard.ask("User name: ")
        password = await keyboard.ask("Password: ", is_secret=True)
        async with Accounts(server) as accounts:
            try:
                if answer.startswith("s"):
                    done = await accounts.sign_up(name, password, device_name="hubbub chat")
                else:
                    done = await accounts.log_in(name, password, device_name="hubbub chat")
            except HubbubError as exc:
                if not isinstance(exc, Refused) and exc.code != "bad_field":
                    raise
                keyboard.console.print(Text(exc.message, style="red"))
                continue
        return SavedLogin(
            token=done.token, username=done.user.username, device_id=f"terminal-{new_client_id()[:16]}"
        )


async def _talk(client: Client, keyboard: Keyboard) -> bool:
    """Serve until the input ends, /quit, or the server ends the session. Returns whether it was /logout.

    Raises: HubbubError.
    """
    screen = Screen(client, keyboard.console)
    prompt = Prompt(client, screen)
    screen.say(f"Hello {clean(client.user.name)}. /help tells what you can type.")
    await screen.show_list()
    failure: HubbubError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(screen.mark_read_loop)
        if isinstance(keyboard, TerminalKeyboard):
            typing = TypingMarks(client, screen)
            keyboard.label, keyboard.on_key, screen.refresh = screen.label, typing.on_key, keyboard.redraw
            nursery.start_soon(typing.run)
            nursery.start_soon(screen.forget_typists_loop)
            nursery.start_soon(keyboard.follow_signals)

        async def watch() -> None:
            nonlocal failure
            try:
                await Watcher(client, screen).run()
            except HubbubError as exc:
                failure = exc
                nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        while (line := await keyboard.line()) is not None:
            if keyboard.has_keys and line.startswith("/"):
                screen.say(f"› {clean(line)}")
            if not await prompt.on_line(line):
                break
        nursery.cancel_scope.cancel()
    if failure is not None and not prompt.is_logged_out:
        raise failure
    return prompt.is_logged_out
