"""Settings: who wins, what is refused, and whether the message says what to do."""

from pathlib import Path
from typing import Any

import pytest

from server import config
from server.config import ConfigError, Settings, load, server_secret


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_flags_win_over_variables_over_the_file_over_defaults(tmp_path: Path) -> None:
    """Operators who override one thing for one run."""
    (tmp_path / "hubbub.toml").write_text(
        'port = 1001\nbot_port = 1002\nhost = "::1"\norigins = ["https://a.b"]\n'
    )
    environ = {"HUBBUB_PORT": "2001", "HUBBUB_BOT_PORT": "2002", "PATH": "/bin"}
    loaded = load({"port": "3001"}, environ)
    settings = loaded.settings
    assert (settings.port, settings.bot_port, settings.host) == (3001, 2002, "::1")
    assert settings.origins == ["https://a.b"]
    assert settings.synchronous == "full"
    assert [loaded.sources[name] for name in ("port", "bot_port", "host", "synchronous")] == [
        "--port",
        "HUBBUB_BOT_PORT",
        "hubbub.toml",
        "default",
    ]


def test_the_file_is_named_by_flag_or_variable(tmp_path: Path) -> None:
    """Machines with several nodes."""
    (tmp_path / "hubbub.toml").write_text("port = 1")
    (tmp_path / "a.toml").write_text("port = 2")
    (tmp_path / "b.toml").write_text("port = 3")
    assert load({}, {}).settings.port == 1
    assert load({}, {"HUBBUB_CONFIG": "a.toml"}).settings.port == 2
    assert load({}, {"HUBBUB_CONFIG": "a.toml"}, config_file="b.toml").settings.port == 3


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("HUBBUB_SIGN_UP_OPEN", "no", "sign_up_open", False),
        ("HUBBUB_SIGN_UP_OPEN", "TRUE", "sign_up_open", True),
        ("HUBBUB_MAX_FILE_BYTES", "25M", "max_file_bytes", 25 << 20),
        ("HUBBUB_MAX_FILE_BYTES", "1 GiB", "max_file_bytes", 1 << 30),
        ("HUBBUB_MAX_FILE_BYTES", "4096", "max_file_bytes", 4096),
        ("HUBBUB_ORIGINS", "https://a.b, https://c.d:8443", "origins", ["https://a.b", "https://c.d:8443"]),
        ("HUBBUB_COMMANDS_PER_S", "0.5", "commands_per_s", 0.5),
        ("HUBBUB_LOG_FORMAT", "json", "log_format", "json"),
    ],
)
def test_a_variable_is_read_as_its_setting_means_it(variable: str, text: str, name: str, value: Any) -> None:
    """Container images, which have nothing but variables."""
    assert getattr(load({}, {variable: text}).settings, name) == value


@pytest.mark.parametrize(
    ("flags", "environ", "file", "words"),
    [
        ({"port": "many"}, {}, "", ["--port", "many"]),
        ({"port": "70000"}, {}, "", ["--port", "65535"]),
        ({}, {"HUBBUB_PROT": "1"}, "", ["HUBBUB_PROT", "HUBBUB_PORT"]),
        ({}, {"HUBBUB_LOG_FORMAT": "xml"}, "", ["HUBBUB_LOG_FORMAT", "xml"]),
        ({}, {"HUBBUB_SIGN_UP_OPEN": "maybe"}, "", ["HUBBUB_SIGN_UP_OPEN", "maybe"]),
        ({}, {"HUBBUB_CLUSTER_SECRET": "\udc8e" * 32}, "", ["HUBBUB_CLUSTER_SECRET", "hex"]),
        ({}, {}, "prot = 1", ["hubbub.toml", "'prot'", "port"]),
        ({}, {}, "zzzzzz = 1", ["zzzzzz", "hubbub config"]),
        ({}, {}, "port = ", ["hubbub.toml", "TOML"]),
        ({}, {}, 'port = "x"', ["port in hubbub.toml"]),
        ({}, {"HUBBUB_CONFIG": "none.toml"}, "", ["none.toml", "HUBBUB_CONFIG"]),
        ({"tls_cert": "c.pem"}, {}, "", ["tls_key"]),
        ({"tls_cert": "c.pem", "tls_key": "k.pem"}, {}, "", ["c.pem", "not a file"]),
        ({"origins": "example.com"}, {}, "", ["origins", "https://example.com"]),
        ({"origins": "https://example.com/path"}, {}, "", ["origins"]),
        ({"public_url": "chat.example.com"}, {}, "", ["public_url"]),
        ({"trusted_proxies": "10.0.0.0/99"}, {}, "", ["trusted_proxies", "10.0.0.0/8"]),
        ({"notify_networks": "10.0.0.0/99"}, {}, "", ["notify_networks", "10.0.0.0/8"]),
        ({"port": "9000", "bot_port": "9000"}, {}, "", ["9000"]),
        ({}, {"HUBBUB_ADMIN_TOKEN": "short"}, "", ["admin_token", "16"]),
        ({}, {"HUBBUB_SERVER_SECRET": "xyz"}, "", ["server_secret", "64 hex"]),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence_that_says_what_to_do(
    tmp_path: Path, flags: dict[str, str], environ: dict[str, str], file: str, words: list[str]
) -> None:
    """Operators at three in the morning."""
    if file:
        (tmp_path / "hubbub.toml").write_text(file)
    with pytest.raises(ConfigError) as error:
        load(flags, environ)
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_a_variable_that_only_shares_the_prefix_is_nobodys_business() -> None:
    """Whoever runs hubbub beside tools of their own."""
    environ = {"HUBBUB_OF_OUR_TOWN": "1", "HUBBUB_APP_SECRET": "x", "HUBBUB_URL": "y", "HUBBUB_TOKEN": "z"}
    assert load({}, environ).settings == Settings()


def test_every_setting_says_what_it_means() -> None:
    """`hubbub serve --help` and `hubbub config`."""
    for name in config.FIELDS:
        assert len(config.describe(name)) > 15, name


def test_the_secret_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    """Every app secret derives from it."""
    settings = Settings(data_dir=str(tmp_path / "data"))
    secret = server_secret(settings)
    assert len(secret) == 32
    assert server_secret(settings) == secret
    path = tmp_path / "data" / "secret.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["secret.key"]
    assert server_secret(Settings(server_secret="ab" * 32, data_dir="/nowhere")) == b"\xab" * 32
    path.write_bytes(b"cut")
    with pytest.raises(ConfigError, match="3 bytes"):
        server_secret(settings)


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """Operators who mistyped it."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="data_dir"):
        server_secret(Settings(data_dir=str(tmp_path / "file" / "data")))
