"""Settings: one table; flag, variable, project file, user file, default, in that order; nothing is ignored."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from cfn.errors import UsageError
from cfn.settings import TABLE, Settings, load

#: Section 7 of the reference: the eight variables, with their defaults.
REFERENCE = {
    "CFN_TOPOLOGY": "hybrid",
    "CFN_MAX_AGENTS": 708,
    "CFN_COORDINATORS": 7,
    "CFN_WORKERS_PER_COORDINATOR": 100,
    "CFN_MESSAGE_BASE_DIR": None,
    "CFN_METRICS_ENABLED": True,
    "CFN_HEALTH_CHECK_INTERVAL": 30.0,
    "CFN_MAX_COORDINATION_TIME": 60.0,
}


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without a project file above it, and a home without a user file."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "project" / "deep"
    folder.mkdir(parents=True)
    return folder


def write_user_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config" / "cfn" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_the_eight_variables_of_the_reference_have_their_defaults(nowhere: Path) -> None:
    settings = load(env={}, cwd=nowhere)
    table = {setting.variable: value.value for setting, value in settings.explain()}
    assert {name: table[name] for name in REFERENCE} == REFERENCE


def test_every_setting_has_a_meaning_and_a_default_that_fits(nowhere: Path) -> None:
    assert len({setting.name for setting in TABLE}) == len(TABLE)
    for setting in TABLE:
        assert setting.meaning
        assert setting.variable == "CFN_" + setting.name.upper()
        if setting.default is not None:
            assert setting.kind(setting.default) == setting.default


def test_without_any_source_everything_is_the_default(nowhere: Path) -> None:
    for setting, value in load(env={}, cwd=nowhere).explain():
        assert (value.value, value.source) == (setting.default, "default")


def test_the_order_is_flag_variable_project_user_default(nowhere: Path, tmp_path: Path) -> None:
    user = write_user_file(tmp_path, "max_inbox = 1\nlease = 1\nmax_batch = 1\nmax_attempts = 1\n")
    project = nowhere.parent / "cfn.toml"
    project.write_text("max_inbox = 2\nlease = 2\nmax_batch = 2\n")
    env = {"CFN_MAX_INBOX": "3", "CFN_LEASE": "3"}
    settings = load({"max_inbox": 4, "lease": None}, env=env, cwd=nowhere)
    found = {setting.name: (value.value, value.source) for setting, value in settings.explain()}
    assert found["max_inbox"] == (4, "flag")
    assert found["lease"] == (3.0, "CFN_LEASE")
    assert found["max_batch"] == (2, str(project))
    assert found["max_attempts"] == (1, str(user))
    assert found["max_message_bytes"] == (1 << 20, "default")


def test_the_nearest_project_file_wins(nowhere: Path) -> None:
    (nowhere.parent / "cfn.toml").write_text("max_inbox = 1\n")
    (nowhere / "cfn.toml").write_text("max_inbox = 2\n")
    assert load(env={}, cwd=nowhere).max_inbox == 2
    assert load(env={}, cwd=nowhere.parent).max_inbox == 1


def test_the_references_own_name_of_the_bus_folder_is_read_after_ours(nowhere: Path) -> None:
    def found(env: dict[str, str]) -> tuple[Any, str]:
        settings = load(env=env, cwd=nowhere)
        return next((value.value, value.source) for row, value in settings.explain() if row.name == "message_base_dir")

    assert found({"MESSAGE_BASE_DIR": "/b"}) == ("/b", "MESSAGE_BASE_DIR")
    assert found({"MESSAGE_BASE_DIR": "/b", "CFN_MESSAGE_BASE_DIR": "/a"}) == ("/a", "CFN_MESSAGE_BASE_DIR")


def test_an_empty_variable_is_not_given(nowhere: Path) -> None:
    assert load(env={"CFN_MAX_INBOX": ""}, cwd=nowhere).max_inbox == 1000


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("max_inbox", "2000", 2000),
        ("lease", "0.5", 0.5),
        ("metrics_enabled", "off", False),
        ("metrics_enabled", "YES", True),
        ("topology", "extended", "tree"),
        ("topology", "flat", "flat"),
        ("without", "doorbell,dir_fd flock", ("doorbell", "dir_fd", "flock")),
        ("message_base_dir", "~/bus", None),
    ],
)
def test_a_value_that_fits_is_read(nowhere: Path, name: str, text: str, value: Any) -> None:
    found = getattr(load(env={"CFN_" + name.upper(): text}, cwd=nowhere), name)
    if value is None:
        value = str(Path("~/bus").expanduser())
    assert found == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("max_inbox", "0"), ("max_inbox", "-1"), ("max_inbox", "many"), ("max_inbox", "1.5"), ("max_inbox", "1e3"),
        ("lease", "0"), ("lease", "-1"), ("lease", "soon"), ("lease", "nan"), ("lease", "inf"), ("lease", "1e12"),
        ("metrics_enabled", "perhaps"), ("topology", "ring"), ("message_base_dir", "a\0b"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_names_the_variable_the_value_and_the_mend(
    nowhere: Path, name: str, text: str
) -> None:
    variable = "CFN_" + name.upper()
    with pytest.raises(UsageError) as caught:
        load(env={variable: text}, cwd=nowhere)
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert variable in message
    assert repr(text) in message
    assert "\n" not in message
    with pytest.raises(UsageError, match="--" + name.replace("_", "-")):
        load({name: text}, env={}, cwd=nowhere)


@pytest.mark.parametrize(("name", "value"), [("max_inbox", True), ("max_inbox", 1.5), ("max_inbox", []), ("lease", {})])
def test_a_flag_of_the_wrong_type_does_not_fit(nowhere: Path, name: str, value: Any) -> None:
    with pytest.raises(UsageError):
        load({name: value}, env={}, cwd=nowhere)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("max_inbox = \n", "cannot read"),
        ("max_inboxes = 5\n", "max_inboxes"),
        ("[max_inbox]\nvalue = 5\n", "max_inbox"),
        ("max_inbox = 'many'\n", "many"),
        ("lease = -1\n", "lease"),
    ],
)
@pytest.mark.parametrize("whose", ["project", "user"])
def test_a_file_that_is_wrong_is_an_error_that_names_the_file(
    nowhere: Path, tmp_path: Path, whose: str, text: str, word: str
) -> None:
    path = nowhere / "cfn.toml"
    if whose == "user":
        path = write_user_file(tmp_path, text)
    else:
        path.write_text(text)
    with pytest.raises(UsageError, match=word) as caught:
        load(env={}, cwd=nowhere)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_text_is_an_error(nowhere: Path) -> None:
    (nowhere / "cfn.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot read"):
        load(env={}, cwd=nowhere)


def test_a_user_file_that_is_a_folder_or_a_dangling_link_is_an_error(nowhere: Path, tmp_path: Path) -> None:
    path = tmp_path / "config" / "cfn" / "config.toml"
    path.mkdir(parents=True)
    with pytest.raises(UsageError, match="cannot read"):
        load(env={}, cwd=nowhere)
    path.rmdir()
    path.symlink_to(tmp_path / "nothing")
    with pytest.raises(UsageError, match="cannot read"):
        load(env={}, cwd=nowhere)


def test_replace_makes_a_copy_in_which_the_given_win(nowhere: Path) -> None:
    settings = load(env={"CFN_LEASE": "3"}, cwd=nowhere)
    changed = settings.replace(max_inbox=5, max_batch=None)
    assert (changed.max_inbox, changed.max_batch, changed.lease) == (5, 1000, 3.0)
    assert settings.max_inbox == 1000
    with pytest.raises(UsageError, match="max-inbox"):
        settings.replace(max_inbox=0)


def test_replace_knows_no_other_settings(nowhere: Path) -> None:
    with pytest.raises(UsageError, match="nonsense"):
        load(env={}, cwd=nowhere).replace(nonsense=1)


def test_an_unknown_setting_is_an_attribute_error(nowhere: Path) -> None:
    settings = load(env={}, cwd=nowhere)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = settings.nonsense


def test_settings_travel_to_other_processes(nowhere: Path) -> None:
    settings = load({"max_inbox": 5}, env={"CFN_LEASE": "3"}, cwd=nowhere)
    again: Settings = pickle.loads(pickle.dumps(settings))
    assert again.explain() == settings.explain()


@pytest.mark.parametrize("name", ["doorbell", "dir_fd", "flock", "ofd", "fast_depth", "fork", "shm"])
def test_each_capability_can_be_switched_off_by_its_name(nowhere: Path, name: str) -> None:
    assert load(env={"CFN_WITHOUT": name}, cwd=nowhere).without == (name,)


def test_a_capability_that_does_not_exist_is_an_error(nowhere: Path) -> None:
    with pytest.raises(UsageError, match="dorbell"):
        load(env={"CFN_WITHOUT": "dorbell"}, cwd=nowhere)
