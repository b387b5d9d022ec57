"""How to speak with those on other hosts: with keys, or openly where that is spelled out; else not at all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from zpipe.transport import addresses, keys
from zpipe.transport.keys import Keys
from zpipe.values.errors import ConfigError
from zpipe.values.pipeline import Pipeline

KEYS = "ZPIPE_KEYS"


@dataclass(frozen=True)
class Access:
    """What a user has said of it.  `path` is of keys that are used on loopback too; `insecure` means without any."""

    path: Path | None = None
    insecure: bool = False

    def to(self, address: str) -> Keys | None:
        """Return the keys to dial or to bind an address with, None for none.  Raises ConfigError."""
        if self.path is not None:
            return keys.read(self.path)
        if self.insecure or addresses.is_loopback(addresses.host_of(address)):
            return None
        named = os.environ.get(KEYS)
        found = keys.find(Path(named) if named else None)
        if found is None:
            raise ConfigError(
                f"{address} is not of this machine alone and there are no keys in {keys.HOME}: make them with "
                "zpipe keys, or say --insecure to let everyone in who reaches it"
            )
        return found

    def at(self, address: str) -> Keys | None:
        """Return the registry's keys to bind an address with, None for none.  Raises ConfigError."""
        addresses.check_bindable(addresses.host_of(address))
        found = self.to(address)
        if found is not None and not found.is_registry:
            raise ConfigError(
                f"{found.path} is the key of {found.name!r}: a registry needs the one that zpipe keys made, "
                f"{keys.REGISTRY}{keys.SUFFIX}"
            )
        return found

    def of(self, pipeline: Pipeline) -> Access:
        """Return it with what a pipeline's file says of it."""
        return Access(self.path, self.insecure or pipeline.insecure)

    def argv(self) -> tuple[str, ...]:
        """Return it as options of a command line."""
        path = () if self.path is None else ("--keys", str(self.path))
        return (*path, "--insecure") if self.insecure else path


def handed_on(access: Access, bind: str) -> tuple[Access, Keys | None]:
    """Return what the processes of a run whose registry binds this are told, and the keys.  Raises ConfigError."""
    found = access.at(bind)
    return Access(None if found is None else found.path, access.insecure), found


def host_for(registry: str, wanted: str, keys: Keys | None, *, insecure: bool) -> str:
    """Return the address of this host that a worker binds: the one that is `wanted`, else the one towards the registry.

    Raises ConfigError where others could reach it without a key, and RegistryError.
    """
    if not wanted:
        return addresses.towards(registry)
    addresses.check_bindable(wanted)
    if keys is None and not insecure and not addresses.is_loopback(wanted):
        raise ConfigError(
            f"--host {wanted} is not of this machine alone, but the registry at {registry} is and uses no keys: bind "
            "that to an address of its host, or say --insecure"
        )
    return wanted
