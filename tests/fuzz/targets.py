"""All targets by name: a module of this folder that has some is imported here."""

from tests.fuzz import decoders, files, pipelines, requests, worker
from tests.fuzz.target import TARGETS

MODULES = (decoders, files, pipelines, requests, worker)

__all__ = ["MODULES", "TARGETS"]
