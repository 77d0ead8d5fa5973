"""`hubbub sandbox` as a process: what it writes, what it takes, how it ends, and how fast it is."""

import signal
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hpack
import httpx
import jwt
import msgspec
import pytest
from hyperframe.frame import DataFrame, HeadersFrame, WindowUpdateFrame

from protocol.provider_configs import ApnsConfig, ProviderConfig
from server.cli import main
from tests.sandbox.clients import TOKEN, RawTls, apns_headers

Start = Callable[..., tuple["subprocess.Popen[str]", dict[str, Any]]]


@pytest.fixture
def start() -> Iterator[Start]:
    processes: list[subprocess.Popen[str]] = []

    def start(*words: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        command = [sys.executable, "-m", "server.cli", "sandbox", "--json", "--port", "0", *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.stderr and process.stderr.read()
        return process, msgspec.json.decode(line)

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def read_apns(folder: Path) -> ApnsConfig:
    config = msgspec.json.decode((folder / "apns.json").read_bytes(), type=ProviderConfig)
    assert isinstance(config, ApnsConfig)
    return config


def sign(config: ApnsConfig) -> str:
    claims = {"iss": config.team_id, "iat": int(time.time())}
    return jwt.encode(claims, config.private_key, algorithm="ES256", headers={"kid": config.key_id})


@pytest.mark.slow
def test_settings_keys_and_faults_go_through_files(start: Start, tmp_path: Path) -> None:
    """An app is set up with what the command wrote, and a second start has the same keys."""
    faults = tmp_path / "faults.json"
    faults.write_text('[{"channel": "apns", "status": 503, "times": 1}]')
    folder = tmp_path / "sandbox"
    process, addresses = start("--dir", str(folder), "--faults", str(faults))
    config = read_apns(folder)
    assert config.base_url == addresses["apns_url"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    with httpx.Client(http2=True, verify=context, trust_env=False) as client:
        headers = apns_headers(sign(config))
        url = f"{config.base_url}/3/device/{TOKEN}"
        statuses = [client.post(url, json={"aps": {}}, headers=headers).status_code for _ in range(2)]
    assert statuses == [503, 200]
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, "")
    start("--dir", str(folder))
    again = read_apns(folder)
    assert (again.private_key, again.ca_pem) == (config.private_key, config.ca_pem)


def test_wrong_files_are_told_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, and what to do."""
    faults = tmp_path / "faults.json"
    faults.write_text('[{"channel": "pigeon", "status": 503}]')
    assert main(["sandbox", "--port", "0", "--faults", str(faults)]) == 1
    assert "no channel 'pigeon'" in capsys.readouterr().err
    (tmp_path / "keys.json").write_text("{}")
    assert main(["sandbox", "--port", "0", "--dir", str(tmp_path)]) == 1
    assert "remove it for new keys" in capsys.readouterr().err
    assert main(["sandbox", "--port", "99999"]) == 1


def _requests(config: ApnsConfig, count: int) -> list[bytes]:
    """Make whole requests beforehand: the client must not be what is measured."""
    encoder, found = hpack.Encoder(), []
    for number in range(count):
        fields = {
            ":method": "POST",
            ":scheme": "https",
            ":path": f"/3/device/{number:064x}",
            ":authority": "localhost",
            **apns_headers(sign(config) if number == 0 else ""),
        }
        if number == 0:
            authorization = fields["authorization"]
        head, body = HeadersFrame(1 + 2 * number), DataFrame(1 + 2 * number)
        head.flags.add("END_HEADERS")
        head.data = encoder.encode({**fields, "authorization": authorization}.items())
        body.flags.add("END_STREAM")
        body.data = b'{"aps":{"alert":"Hello"},"delivery_id":"d_%d"}' % number
        found.append(head.serialize() + body.serialize())
    return found


def _push_all(requests: list[bytes], context: Any, port: int, *, in_flight: int = 200) -> None:
    """Send all on one connection, so many at a time, and see each answered."""
    credit = WindowUpdateFrame(0, window_increment=2**30)
    with RawTls(context, port, 30) as tls:
        hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" + credit.serialize()
        tls.send(hello + b"".join(requests[:in_flight]))
        sent, done, buffer = in_flight, 0, b""
        while done < len(requests):
            data = tls.receive()
            assert data, (done, buffer[:100])
            buffer += data
            finished = 0
            while len(buffer) >= 9 and len(buffer) >= 9 + (size := int.from_bytes(buffer[:3], "big")):
                if buffer[3] == 1:
                    assert buffer[9] == 0x88  # HPACK's static table: ":status 200"
                    assert buffer[4] & 1  # and nothing follows
                    finished += 1
                buffer = buffer[9 + size :]
            done += finished
            tls.send(b"".join(requests[sent : sent + finished]))
            sent += finished


@pytest.mark.slow
def test_under_load_every_id_arrives_once(start: Start, tmp_path: Path) -> None:
    """Two hundred requests in flight on one connection, as a sender in a hurry has them."""
    process, addresses = start("--dir", str(tmp_path), "--keep", "ids")
    config = read_apns(tmp_path)
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    context.set_alpn_protocols(["h2"])
    port = int(addresses["apns_url"].rpartition(":")[2])
    requests = _requests(config, 6_000)
    _push_all(requests, context, port)
    counts = httpx.get(addresses["control_url"] + "/v1/counts", trust_env=False).json()["apns"]
    assert counts == {"count": 6_000, "doubles": 0}
    assert process.poll() is None
