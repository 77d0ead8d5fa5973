"""A bot that repeats what it is told: the smallest one that works.

Make the bot's account and keep its token, then run it:

    .venv/bin/hubbub bots create echo
    HUBBUB_TOKEN=… .venv/bin/python examples/echo_bot.py --url hubbub://127.0.0.1:8081

Add it to a group, or open a direct conversation with it. It answers each message in a direct conversation,
and in a group the messages that mention it and the command /echo. Stop it with Ctrl-C; with --state FILE it
goes on where it was, so nothing that was said meanwhile is left without an answer.
"""

import argparse
import logging
import os
import sys

import hubbub


def make_bot(url: str, token: str, state: str = "") -> hubbub.Bot:
    """State what the bot does."""
    bot = hubbub.Bot(url, token=token, cursors=state or None)
    direct: dict[str, bool] = {}

    @bot.command("echo")
    async def echo(context: hubbub.Context) -> None:
        await context.reply(context.rest or "Say something after /echo.")

    @bot.on_mention
    async def mentioned(context: hubbub.Context) -> None:
        await context.reply(context.text)

    @bot.on_message
    async def said(context: hubbub.Context) -> None:
        is_direct = direct.get(context.conversation_id)
        if is_direct is None:
            is_direct = (await context.conversation()).kind == "direct"
            direct[context.conversation_id] = is_direct
        if is_direct and context.text:
            await context.reply(context.text)

    return bot


def main() -> int:
    """Read the arguments and work until stopped."""
    parser = argparse.ArgumentParser(description="A bot that repeats what it is told.")
    parser.add_argument("--url", default=os.environ.get("HUBBUB_URL", "hubbub://127.0.0.1:8081"))
    parser.add_argument("--token", default=os.environ.get("HUBBUB_TOKEN", ""), help="or HUBBUB_TOKEN")
    parser.add_argument("--state", default="", metavar="FILE", help="remember here what was answered")
    args = parser.parse_args()
    if not args.token:
        parser.error("give the bot's token by --token or HUBBUB_TOKEN; `hubbub bots create NAME` prints one")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        make_bot(args.url, args.token, args.state).run()
    except hubbub.HubbubError as exc:
        print(f"The bot stopped: {exc.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
