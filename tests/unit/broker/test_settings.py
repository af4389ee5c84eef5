"""Settings are read once, checked, and told about in one line."""

import pytest

from ottla_broker.settings import SettingsError, load_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    import os

    for name in list(os.environ):
        if name.startswith("OTTLA_"):
            monkeypatch.delenv(name)


def load(*arguments):
    return load_settings(arguments)


def test_a_node_id_is_all_that_a_single_broker_needs():
    settings = load("--node-id", "7")
    assert settings.url == "http://127.0.0.1:7101"
    assert settings.voter_urls == {7: "http://127.0.0.1:7101"}
    assert str(settings.data_directory) == "data/broker-7"
    assert settings.cluster_id == "local"


def test_flags_win_over_the_environment(monkeypatch):
    monkeypatch.setenv("OTTLA_NODE_ID", "1")
    monkeypatch.setenv("OTTLA_SESSION_TIMEOUT_MS", "5000")
    settings = load("--node-id", "2")
    assert (settings.node_id, settings.session_timeout_ms) == (2, 5000)


def test_voters_are_a_comma_separated_list(monkeypatch):
    monkeypatch.setenv("OTTLA_VOTERS", "1@127.0.0.1:7101, 2@127.0.0.1:7102,")
    settings = load("--node-id", "1")
    assert settings.voter_urls == {1: "http://127.0.0.1:7101", 2: "http://127.0.0.1:7102"}


@pytest.mark.parametrize(
    ("arguments", "roles"),
    [
        ((), (True, True)),
        (("--roles", "controller,broker"), (True, True)),
        (("--roles", "controller", "--voters", "1@127.0.0.1:7101"), (False, True)),
        (("--roles", "broker", "--voters", "2@127.0.0.1:7102"), (True, False)),
    ],
)
def test_a_process_is_broker_or_controller_or_both(arguments, roles):
    settings = load("--node-id", "1", *arguments)
    assert (settings.is_broker, settings.is_controller) == roles


@pytest.mark.parametrize("voters", ["2@h:2,3@h:3", "1@h:1,2@h:2,3@h:3"])
def test_who_joins_the_quorum_is_no_voter_before_the_log_says_so(voters):
    settings = load("--node-id", "1", "--voters", voters, "--join-quorum")
    assert settings.voter_urls == {2: "http://h:2", 3: "http://h:3"}
    assert settings.is_controller


def test_where_roles_are_divided_peers_are_expected_that_no_setting_names():
    assert load("--node-id", "1", "--voters", "1@h:1,2@h:2,3@h:3").expected_peers == 2
    assert load("--node-id", "1", "--voters", "2@h:2", "--roles", "broker").expected_peers == 9
    assert load("--node-id", "2", "--voters", "2@h:2", "--roles", "controller").expected_peers == 8


def test_the_advertised_url_is_what_peers_are_told():
    settings = load("--node-id", "1", "--advertised-url", "http://127.0.0.2:80/")
    assert settings.url == "http://127.0.0.2:80"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["OTTLA_NODE_ID", "--node-id"]),
        (("--node-id", "0"), ["OTTLA_NODE_ID", "greater"]),
        (("--node-id", "x"), ["OTTLA_NODE_ID", "integer"]),
        (("--node-id", "1", "--listen", "nowhere"), ["OTTLA_LISTEN", "host:port"]),
        (("--node-id", "1", "--listen", "127.0.0.1:99999"), ["OTTLA_LISTEN", "host:port"]),
        (("--node-id", "1", "--listen", "0.0.0.0:7101"), ["OTTLA_INSECURE_LISTEN"]),
        (("--node-id", "1", "--voters", "1=127.0.0.1:1"), ["OTTLA_VOTERS", "id@host:port"]),
        (("--node-id", "1", "--voters", "1@h:1,1@h:2"), ["OTTLA_VOTERS", "twice"]),
        (
            ("--node-id", "1", "--voters", "2@127.0.0.1:1"),
            ["OTTLA_VOTERS", "1@host:port", "OTTLA_ROLES=broker"],
        ),
        (
            ("--node-id", "1", "--voters", "2@127.0.0.1:1", "--roles", "controller"),
            ["OTTLA_VOTERS", "1@host:port", "OTTLA_ROLES=broker"],
        ),
        (
            ("--node-id", "1", "--voters", "1@127.0.0.1:1", "--roles", "broker"),
            ["OTTLA_ROLES", "OTTLA_VOTERS", "(1)"],
        ),
        (("--node-id", "1", "--roles", "broker"), ["OTTLA_ROLES", "OTTLA_VOTERS"]),
        (
            ("--node-id", "1", "--voters", "2@h:1", "--roles", "broker", "--join-quorum"),
            ["OTTLA_JOIN_QUORUM", "OTTLA_ROLES"],
        ),
        (("--node-id", "1", "--join-quorum"), ["OTTLA_JOIN_QUORUM", "OTTLA_VOTERS"]),
        (
            ("--node-id", "1", "--voters", "1@h:1", "--join-quorum"),
            ["OTTLA_JOIN_QUORUM", "OTTLA_VOTERS"],
        ),
        (("--node-id", "1", "--roles", "leader"), ["OTTLA_ROLES", "broker,controller", "leader"]),
        (("--node-id", "1", "--roles", ""), ["OTTLA_ROLES", "broker,controller"]),
        (("--node-id", "1", "--session-timeout-ms", "4"), ["OTTLA_SESSION_TIMEOUT_MS", "500"]),
        (("--node-id", "1", "--advertised-url", "ftp://x"), ["OTTLA_ADVERTISED_URL", "http://"]),
        (("--node-id", "1", "--log-format", "xml"), ["OTTLA_LOG_FORMAT", "json"]),
        (("--node-id", "1", "--colour", "red"), ["--colour"]),
    ],
)
def test_a_wrong_setting_is_told_in_one_line_that_names_it_and_the_rule(arguments, words):
    with pytest.raises(SettingsError) as caught:
        load(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_listener_beyond_loopback_can_be_insisted_on():
    assert load("--node-id", "1", "--listen", "0.0.0.0:7101", "--insecure-listen").insecure_listen


@pytest.mark.parametrize("address", ["127.0.0.5:1", "localhost:1", "[::1]:1"])
def test_loopback_needs_no_insistence(address):
    assert load("--node-id", "1", "--listen", address).listen == address


def test_an_unknown_name_suggests_the_nearest(monkeypatch):
    monkeypatch.setenv("OTTLA_SESION_TIMEOUT_MS", "3000")
    with pytest.raises(SettingsError, match="did you mean OTTLA_SESSION_TIMEOUT_MS"):
        load_settings(("--node-id", "1"))


def test_a_variable_of_the_command_line_is_suggested_too():
    with pytest.raises(SettingsError, match="did you mean OTTLA_BOOTSTRAP"):
        load_settings(["--node-id", "1"], {"OTTLA_BOOTSTAP": "http://127.0.0.1:7101"})


def test_the_variables_of_clients_never_stop_a_broker(monkeypatch):
    monkeypatch.setenv("OTTLA_BOOTSTRAP", "http://127.0.0.1:1")
    assert load_settings(("--node-id", "1")).node_id == 1


def test_the_secret_is_not_in_the_settings_text():
    settings = load("--node-id", "1", "--cluster-secret", "hunter2")
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "default", "largest"),
    [
        ("producer_id_expiration_ms", 86_400_000, 366 * 86_400_000),
        ("idempotency_window_ms", 86_400_000, 366 * 86_400_000),
        ("idempotency_entries_max", 65_536, 10_000_000),
    ],
)
def test_bounds_of_what_is_remembered_of_retries(monkeypatch, name, default, largest):
    variable = f"OTTLA_{name.upper()}"
    assert getattr(load("--node-id", "1"), name) == default
    monkeypatch.setenv(variable, "1")
    assert getattr(load("--node-id", "1"), name) == 1
    for value in ("0", str(largest + 1)):
        monkeypatch.setenv(variable, value)
        with pytest.raises(SettingsError, match=variable):
            load("--node-id", "1")


def test_only_chosen_topic_defaults_are_written_into_topics():
    assert load("--node-id", "1").default_topic_configs == {}
    chosen = load("--node-id", "1", "--retention-ms", "-1", "--segment-bytes", "4096")
    assert chosen.default_topic_configs == {"retention.ms": -1, "segment.bytes": 4096}


@pytest.mark.parametrize("value", ["299", "30001", "soon"])
def test_an_election_timeout_out_of_range_names_the_setting(value, monkeypatch):
    monkeypatch.setenv("OTTLA_ELECTION_TIMEOUT_MS", value)
    with pytest.raises(SettingsError, match="OTTLA_ELECTION_TIMEOUT_MS"):
        load("--node-id", "1")
