"""`hubbub sandbox`: run the fakes until told to end, and write what an app needs to be their client."""

import argparse
import datetime
import signal
import sys
from pathlib import Path
from typing import Final

import msgspec
import trio

from server.desk import CliError
from server.sandbox.faults import Fault
from server.sandbox.keyring import Addresses, Configs, Keyring, make_keyring
from server.sandbox.sandbox import Sandbox, SandboxOptions, open_sandbox

DEFAULT_PORT: Final = 9700
FAKES: Final = 9  # ports after the control API's
KEYS_FILE: Final = "keys.json"
CA_FILE: Final = "ca.pem"
ADDRESSES_FILE: Final = "addresses.json"
_EPILOG: Final = """\
examples:
  hubbub sandbox --dir ./sandbox            settings for each provider in ./sandbox/*.json, the CA in ca.pem
  hubbub sandbox --port 0 --json            any free ports; prints where everything is as one line of JSON
  hubbub sandbox --faults faults.json       a list such as [{"channel": "fcm", "status": 503, "times": 3}]
  curl localhost:9700/v1/deliveries/apns?count=1      wait for a push, and look at it

docs/SANDBOX.md tells what is checked, how to inject faults, and how to use it in Python tests."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `hubbub sandbox` understands."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument(
        "--port",
        type=int,
        default=DEFAULT_PORT,
        metavar="N",
        help=f"the control API's port; the fakes have the next nine; 0: any. Default: {DEFAULT_PORT}",
    )
    parser.add_argument(
        "--dir", default="", metavar="DIR", help="write settings, keys and CA here; keys found here are used"
    )
    parser.add_argument("--faults", default="", metavar="FILE", help="JSON list of faults, in force at once")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of faults with a probability")
    parser.add_argument(
        "--keep",
        choices=("all", "ids"),
        default="all",
        help="ids: count deliveries and their ids only, for load",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run until SIGINT or SIGTERM; returns the exit code. Raises: CliError, OSError."""
    if not 0 <= args.port <= 65_535 - FAKES:
        raise CliError(f"--port is {args.port}; it is 0 to {65_535 - FAKES}.")
    folder = Path(args.dir) if args.dir else None
    faults = read_faults(Path(args.faults)) if args.faults else []
    keyring = read_or_make_keys(folder)
    options = SandboxOptions(port=args.port, seed=args.seed, keep=args.keep)
    trio.run(_serve, keyring, options, faults, folder, args.json)
    return 0


async def _serve(
    keyring: Keyring, options: SandboxOptions, faults: list[Fault], folder: Path | None, is_json: bool
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with open_sandbox(keyring, options) as sandbox:
            for fault in faults:
                sandbox.inject(fault)
            if folder is not None:
                write_settings(folder, sandbox.configs(), sandbox.addresses, sandbox.ca_pem)
            if is_json:
                print(msgspec.json.encode(sandbox.addresses).decode(), flush=True)
            else:
                print(_table(sandbox, folder), flush=True)
            async for _ in signals:
                break
            if not is_json:
                print(_summary(sandbox), file=sys.stderr)


def read_faults(path: Path) -> list[Fault]:
    """Read a list of faults. Raises: CliError, OSError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Fault])
    except msgspec.MsgspecError as exc:
        raise CliError(f"{path} is no JSON list of faults: {exc}.") from exc


def read_or_make_keys(folder: Path | None) -> Keyring:
    """Use the keys of an earlier start, so that apps need no new settings. Raises: CliError, OSError."""
    path = folder / KEYS_FILE if folder is not None else None
    if path is not None and path.is_file():
        try:
            return msgspec.json.decode(path.read_bytes(), type=Keyring)
        except msgspec.MsgspecError as exc:
            raise CliError(f"{path} is not what this version wrote: {exc}; remove it for new keys.") from exc
    keyring = make_keyring(datetime.datetime.now(datetime.UTC))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, msgspec.json.encode(keyring))
    return keyring


def write_settings(folder: Path, configs: Configs, addresses: Addresses, ca_pem: str) -> None:
    """Write one file for each provider, the addresses, and the CA. Raises: OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in configs.__struct_fields__:
        text = msgspec.json.format(msgspec.json.encode(getattr(configs, name)), indent=2)
        _write(folder / f"{name}.json", text)
    _write(folder / ADDRESSES_FILE, msgspec.json.format(msgspec.json.encode(addresses), indent=2))
    _write(folder / CA_FILE, ca_pem.encode())


def _write(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)


def _table(sandbox: Sandbox, folder: Path | None) -> str:
    at = sandbox.addresses
    rows = [
        ("control API", at.control_url, "what arrived, faults, devices: JSON"),
        ("APNs", at.apns_url, "production; HTTP/2"),
        ("APNs", at.apns_development_url, "development; HTTP/2"),
        ("FCM", at.fcm_url, f"tokens: {at.token_url}"),
        ("Web Push", at.webpush_url, "POST /v1/webpush/subscriptions of the control API subscribes"),
        ("Twilio", at.twilio_url, "/2010-04-01/…"),
        ("Vonage", at.vonage_url, "/sms/json"),
        ("SMTP", f"{at.smtp_host}:{at.smtp_port}", "STARTTLS, then AUTH"),
        ("SMTP", f"{at.smtp_host}:{at.smtps_port}", "TLS from the start"),
    ]
    lines = ["The sandbox runs. Nothing leaves this machine.", ""]
    lines += [f"  {name:<15} {where:<28} {note}" for name, where, note in rows]
    lines.append("")
    if folder is None:
        lines.append(f"Settings for each provider: curl {at.control_url}/v1/configs   (or start with --dir)")
    else:
        lines.append(f"Settings for each provider are in {folder}/*.json, the CA is {folder / CA_FILE}.")
    lines.append("A node has to be let in here:  hubbub serve --notify-networks 127.0.0.0/8")
    lines.append(f"See what arrived:           curl {at.control_url}/v1/deliveries/apns")
    lines.append(
        f"Let something go wrong:     curl {at.control_url}/v1/faults "
        '-d \'{"channel": "fcm", "status": 503, "times": 3}\''
    )
    lines.append("Ctrl-C ends it. `hubbub sandbox --help` and docs/SANDBOX.md tell more.")
    return "\n".join(lines)


def _summary(sandbox: Sandbox) -> str:
    arrived = [
        f"{service} {row['count']}" + (f" ({row['doubles']} doubles)" if row["doubles"] else "")
        for service, row in sandbox.counts().items()
        if row["count"]
    ]
    return "Arrived: " + (", ".join(arrived) or "nothing") + "."
