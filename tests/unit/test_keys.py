"""Key files: what is made, what is read, and one line for what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from zpipe.processes.access import KEYS, Access, handed_on, host_for
from zpipe.transport import addresses, keys
from zpipe.transport.keys import Folder
from zpipe.transport.sockets import make_pair
from zpipe.values.errors import ConfigError, RegistryError

ELSEWHERE = "tcp://10.0.0.1:5570"
HERE = "tcp://127.0.0.1:5570"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where keys are looked for at last; nothing is there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(KEYS, raising=False)
    return tmp_path / ".zpipe" / "keys"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "keys")
    made.make(make_pair())
    return made


def refused(what: object, *words: str) -> None:
    line = str(what)
    assert "\n" not in line
    for word in words:
        assert word in line, line


def test_keys_are_their_owners_alone(folder: Folder) -> None:
    path = folder.add("gpu-2", make_pair())
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert [p.stat().st_mode & 0o777 for p in (path, folder.registry().path)] == [0o600, 0o600]


def test_a_host_has_its_own_pair_and_knows_the_registrys_key(folder: Folder) -> None:
    registry, host = folder.registry(), keys.read(folder.add("gpu-2", make_pair()))
    assert (host.name, host.registry, host.is_registry, registry.is_registry) == ("gpu-2", registry.public, False, True)
    assert host.public != registry.public and host.secret != registry.secret


def test_the_secret_is_not_shown(folder: Folder) -> None:
    assert folder.registry().secret not in repr(folder.registry())


def test_the_registry_and_those_that_were_added_are_admitted(folder: Folder) -> None:
    host = keys.read(folder.add("gpu-2", make_pair()))
    registry = folder.registry()
    assert keys.admitted(registry) == {registry.public: "registry", host.public: "gpu-2"}


def test_who_is_revoked_is_admitted_no_longer(folder: Folder) -> None:
    path = folder.add("gpu-2", make_pair())
    other = keys.read(folder.add("gpu-3", make_pair()))
    folder.revoke("gpu-2")
    assert keys.admitted(folder.registry()) == {folder.registry().public: "registry", other.public: "gpu-3"}
    assert not path.exists()
    folder.add("gpu-2", make_pair())


def test_a_line_that_is_removed_by_hand_revokes_too(folder: Folder) -> None:
    folder.add("gpu-2", make_pair())
    file = keys.path_of_admitted(folder.registry())
    file.write_text("".join(line for line in file.open() if not line.startswith("gpu-2")))
    assert list(keys.admitted(folder.registry()).values()) == ["registry"]


@pytest.mark.parametrize("name", ["registry", "gpu-2"])
def test_a_name_is_given_once(folder: Folder, name: str) -> None:
    folder.add("gpu-2", make_pair())
    with pytest.raises(ConfigError) as error:
        folder.add(name, make_pair())
    refused(error.value, f"there is a key '{name}' already", "zpipe keys revoke")


@pytest.mark.parametrize("name", ["", "../x", "Gpu", "a b", "x" * 64])
def test_a_bad_name_is_refused(folder: Folder, name: str) -> None:
    with pytest.raises(ConfigError) as error:
        folder.add(name, make_pair())
    refused(error.value, "is a bad name for a key")


def test_who_is_not_admitted_cannot_be_revoked(folder: Folder) -> None:
    with pytest.raises(ConfigError) as error:
        folder.revoke("gpu-9")
    refused(error.value, "no key 'gpu-9' is admitted", "there are none")


def test_a_folder_stands_for_the_registrys_key_or_its_only_one(folder: Folder, tmp_path: Path) -> None:
    path = folder.add("gpu-2", make_pair())
    assert keys.read(folder.path).name == "registry"
    (tmp_path / "there").mkdir()
    path.rename(tmp_path / "there" / "any.key")
    assert keys.read(tmp_path / "there").name == "gpu-2"


def test_what_is_wrong_with_a_key_is_one_line(folder: Folder, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    two = tmp_path / "two"
    two.mkdir()
    for name in ("a", "b"):
        (two / f"{name}.key").touch()
    torn = tmp_path / "torn.key"
    torn.touch(0o600)
    torn.write_text(folder.registry().path.read_text()[:90])
    binary = tmp_path / "binary.key"
    binary.touch(0o600)
    binary.write_bytes(b"\xff\x00")
    open_ = folder.add("open", make_pair())
    open_.chmod(0o640)
    for path, words in (
        (tmp_path / "none.key", "no such file"),
        (empty, "there is no key in"),
        (two, "there are 2 keys in"),
        (torn, "is no key of zpipe's"),
        (binary, "it is no text"),
        (open_, f"can be read by others: chmod 600 {open_}"),
    ):
        with pytest.raises(ConfigError) as error:
            keys.read(path)
        refused(error.value, words)


def test_a_line_that_names_no_key_is_told_with_its_place(folder: Folder) -> None:
    file = keys.path_of_admitted(folder.registry())
    file.write_text("# a comment\n\ngpu-2 short\n")
    with pytest.raises(ConfigError) as error:
        keys.admitted(folder.registry())
    refused(error.value, f"{file}:3: is not a name and a public key")


@pytest.mark.parametrize(
    ("host", "is_so"),
    [("127.0.0.1", True), ("127.3.2.1", True), ("::1", True), ("localhost", True), ("lo", True), ("10.0.0.1", False),
     ("0.0.0.0", False), ("example.org", False), ("eth0", False), ("fe80::1", False)],
)  # fmt: skip
def test_loopback_is_what_this_machine_alone_reaches(host: str, is_so: bool) -> None:
    assert addresses.is_loopback(host) == is_so


def test_the_way_to_loopback_is_loopback() -> None:
    for endpoint in (HERE, "tcp://localhost:1", "tcp://[::1]:1", "ipc:///x"):
        assert addresses.towards(endpoint) == "127.0.0.1"


def test_a_name_that_is_none_is_one_line() -> None:
    with pytest.raises(RegistryError) as error:
        addresses.towards("tcp://no-such-host.invalid:5570")
    refused(error.value, "cannot reach tcp://no-such-host.invalid:5570", "check the address")


def test_loopback_needs_no_keys(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEYS, str(home / "none.key"))
    assert Access().to(HERE) is None


def test_other_hosts_need_keys_or_that_it_is_spelled_out(home: Path) -> None:
    with pytest.raises(ConfigError) as error:
        Access().to(ELSEWHERE)
    refused(error.value, ELSEWHERE, "zpipe keys", "--insecure")
    assert Access(insecure=True).to(ELSEWHERE) is None


def test_keys_are_those_that_are_named_else_those_of_the_environment_else_those_at_home(
    home: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = folder.add("gpu-2", make_pair())
    Folder(home).make(make_pair())
    found = Access().to(ELSEWHERE)
    assert found is not None and found.path == home / "registry.key"
    monkeypatch.setenv(KEYS, str(folder.path))
    assert Access().to(ELSEWHERE) == folder.registry()
    assert Access(other).to(ELSEWHERE) == keys.read(other)
    assert Access(other).to(HERE) == keys.read(other)


def test_a_registry_needs_its_own_key(home: Path, folder: Folder) -> None:
    other = folder.add("gpu-2", make_pair())
    with pytest.raises(ConfigError) as error:
        Access(other).at(ELSEWHERE)
    refused(error.value, "is the key of 'gpu-2'", "registry.key")
    assert handed_on(Access(folder.path), ELSEWHERE) == (Access(folder.registry().path), folder.registry())


@pytest.mark.parametrize("bind", ["tcp://0.0.0.0:5570", "tcp://*:5570", "tcp://[::]:5570"])
def test_a_registry_binds_one_address(home: Path, bind: str) -> None:
    with pytest.raises(ConfigError) as error:
        Access(insecure=True).at(bind)
    refused(error.value, "stands for every address of this host", "tcp://eth0:5570")


def test_a_worker_binds_where_it_reaches_the_registry(home: Path, folder: Folder) -> None:
    assert host_for(HERE, "", None, insecure=False) == "127.0.0.1"
    assert host_for(ELSEWHERE, "10.0.0.7", folder.registry(), insecure=False) == "10.0.0.7"
    assert host_for(HERE, "10.0.0.7", None, insecure=True) == "10.0.0.7"
    with pytest.raises(ConfigError) as error:
        host_for(HERE, "10.0.0.7", None, insecure=False)
    refused(error.value, "--host 10.0.0.7 is not of this machine alone", "uses no keys", "--insecure")
