"""The configuration: which source wins, and what a mistake gets."""

from pathlib import Path

import pytest

from scheduler.config import KEYS, Config, ConfigError, load_config


def load(tmp_path, text="", *, flags=None, env=None):
    path = tmp_path / "asyncsched.toml"
    path.write_text(text)
    path.chmod(0o600)
    return load_config(flags, {"ASYNCSCHED_CONFIG": str(path), **(env or {})})


def test_without_any_source_everything_has_its_default():
    config = load_config({}, {"HOME": "/nonexistent"})
    assert config == Config()
    assert config.scheduler.parallelism == 32
    assert config.database.dsn == "embedded"
    assert {origin for _, _, origin in config.rows()} == {"default"}


def test_flag_beats_environment_beats_file(tmp_path):
    text = "[scheduler]\nparallelism = 1\nshutdown_grace_s = 1\nscan_interval_s = 2.5\n"
    config = load(
        tmp_path,
        text,
        env={"ASYNCSCHED_SCHEDULER__PARALLELISM": "2", "ASYNCSCHED_SCHEDULER__SHUTDOWN_GRACE_S": "2"},
        flags={"scheduler.parallelism": 3, "database.dsn": None},
    )
    assert config.scheduler.parallelism == 3
    assert config.scheduler.shutdown_grace_s == 2.0
    assert config.scheduler.scan_interval_s == 2.5
    origins = {key: origin for key, _, origin in config.rows()}
    assert origins["scheduler.parallelism"] == "flag"
    assert origins["scheduler.shutdown_grace_s"] == "ASYNCSCHED_SCHEDULER__SHUTDOWN_GRACE_S"
    assert origins["scheduler.scan_interval_s"] == str(tmp_path / "asyncsched.toml")
    assert origins["worker.slots"] == "default"


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("[scheduler]\nparalelism = 3\n", "scheduler.paralelism", "did you mean scheduler.parallelism?"),
        ("[schedulr]\nparallelism = 3\n", "schedulr", "did you mean scheduler?"),
        ("parallelism = 3\n", "parallelism", "unknown section"),
        ("scheduler = 3\n", "scheduler", "must be a section"),
        (
            "[scheduler]\nparallelism = 'many'\n",
            "scheduler.parallelism",
            "a whole number, not 'many'",
        ),
        ("[scheduler]\nparallelism = true\n", "scheduler.parallelism", "must be a whole number"),
        ("[scheduler]\nparallelism = 0\n", "scheduler.parallelism", "must be at least 1"),
        ("[scheduler]\nshutdown_grace_s = -1\n", "scheduler.shutdown_grace_s", "must be at least 0"),
        ("[scheduler]\nscan_interval_s = nan\n", "scheduler.scan_interval_s", "must be a number"),
        ("[loading]\ntimeout_s = 0\n", "loading.timeout_s", "must be more than 0"),
        ("[loading]\ntimeout_s = inf\n", "loading.timeout_s", "at most 3600"),
        ("[scheduler]\ndags_dir = 3\n", "scheduler.dags_dir", "must be the path"),
        ("[database]\ndsn = 'mysql://x'\n", "database.dsn", 'must be "embedded" or an address'),
        ("[database]\ndsn = ''\n", "database.dsn", "not empty"),
        ("[database]\ndsn_file = '/nonexistent'\n", "database.dsn_file", "cannot read /nonexistent"),
    ],
)
def test_a_mistake_names_the_key(tmp_path, text, key, message):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert caught.value.key == key
    assert message in str(caught.value)
    assert caught.value.exit_code == 78


def test_a_broken_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"asyncsched\.toml: is not valid TOML"):
        load(tmp_path, "[scheduler\n")


def test_a_file_that_was_asked_for_must_exist(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config({}, {}, tmp_path / "none.toml")


def test_an_unknown_variable_under_the_prefix_is_an_error():
    with pytest.raises(ConfigError, match="did you mean ASYNCSCHED_DATABASE__DSN") as caught:
        load_config({}, {"ASYNCSCHED_DATABASE__DNS": "embedded"})
    assert caught.value.key == "ASYNCSCHED_DATABASE__DNS"


def test_variables_that_are_not_keys_are_let_be():
    assert load_config({}, {"ASYNCSCHED_HOME": "/x", "ASYNCSCHED_SERVER": "y", "ASYNC": "z"}) == Config()


def test_an_unknown_flag_is_an_error():
    with pytest.raises(ConfigError, match=r"did you mean worker\.slots"):
        load_config({"worker.slot": 3}, {})


def test_the_configuration_directory_of_systemd_is_read(tmp_path):
    (tmp_path / "asyncsched.toml").write_text("[prune]\nkeep_days = 7\n")
    assert load_config({}, {"CONFIGURATION_DIRECTORY": str(tmp_path)}).prune.keep_days == 7


def test_the_users_own_directory_is_read(tmp_path):
    (tmp_path / "asyncsched").mkdir()
    (tmp_path / "asyncsched" / "asyncsched.toml").write_text("[prune]\nkeep_days = 7\n")
    assert load_config({}, {"XDG_CONFIG_HOME": str(tmp_path)}).prune.keep_days == 7


class TestSecrets:
    DSN = "postgresql://me:hunter2@db.example/sched"

    def test_a_password_never_shows(self):
        config = load_config({}, {"ASYNCSCHED_DATABASE__DSN": self.DSN})
        assert config.database.dsn == self.DSN
        assert "hunter2" not in repr(config)
        assert "hunter2" not in str(list(config.rows()))

    @pytest.mark.parametrize(
        "dsn",
        [
            "mysql://me:hunter2@db/x",
            "postgres//me:hunter2@db",
            "mysql://me@db/x?password=hunter2",
            "my://a:hunter2@x@db/x",
        ],
    )
    def test_not_even_in_an_error(self, dsn):
        with pytest.raises(ConfigError) as caught:
            load_config({}, {"ASYNCSCHED_DATABASE__DSN": dsn})
        assert "hunter2" not in str(caught.value)

    def test_a_credential_of_systemd_beats_the_rest(self, tmp_path):
        (tmp_path / "database.dsn").write_text(self.DSN + "\n")
        environment = {"CREDENTIALS_DIRECTORY": str(tmp_path), "ASYNCSCHED_DATABASE__DSN": "embedded"}
        assert load_config({}, environment).database.dsn == self.DSN

    def test_a_file_key_is_read(self, tmp_path):
        secret = tmp_path / "dsn"
        secret.write_text(self.DSN)
        assert load(tmp_path, f"[database]\ndsn_file = '{secret}'\n").database.dsn == self.DSN
        assert load_config({}, {"ASYNCSCHED_DATABASE__DSN_FILE": str(secret)}).database.dsn == self.DSN

    def test_a_flag_with_a_password_is_refused(self):
        with pytest.raises(ConfigError, match="ASYNCSCHED_DATABASE__DSN") as caught:
            load_config({"database.dsn": self.DSN}, {})
        assert "hunter2" not in str(caught.value)
        assert load_config({"database.dsn": "postgresql://me@/x?host=/tmp"}, {}).database.dsn.startswith("post")

    def test_a_file_that_others_can_read_may_hold_none(self, tmp_path):
        text = f"[database]\ndsn = '{self.DSN}'\n"
        assert load(tmp_path, text).database.dsn == self.DSN
        (tmp_path / "asyncsched.toml").chmod(0o644)
        with pytest.raises(ConfigError, match="chmod 600"):
            load_config({}, {}, tmp_path / "asyncsched.toml")


def test_paths_become_absolute():
    config = load_config({"scheduler.dags_dir": Path("dags")}, {})
    assert config.scheduler.dags_dir == Path.cwd() / "dags"


def test_every_key_has_a_reader():
    assert all("parse" in attribute.metadata for _, attribute in KEYS.values())
