"""The tree of errors; the class says whose fault it is.

ZpipeError
├── ConfigError      the pipeline, its file or the command line
├── StageError       the user's stage code
│   ├── EncodeError  an item that cannot travel
│   └── NoRoom       a sink cannot write at the moment
├── ProtocolError    what a peer sent
├── RegistryError    the registry is not there, refuses, or speaks another version
├── RunError         the run as a whole failed
└── SaveError        a save in the run folder cannot be read or written
"""


class ZpipeError(Exception):
    """Anything zpipe raises on purpose; the message is one line: what, where, the rule, the way out."""


class ConfigError(ZpipeError):
    """The pipeline, its file or the command line is wrong; `faults` lists every fault found."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class StageError(ZpipeError):
    """A stage's own code failed; `detail` is its traceback, trimmed to the user's code."""

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class EncodeError(StageError):
    """An item cannot be encoded; the message names the type and where in the item it sits."""


class NoRoom(StageError):
    """A sink cannot write at the moment, for a full disk perhaps; it has changed nothing, and is called again later."""


class ProtocolError(ZpipeError):
    """A peer sent something that the protocol does not allow."""


class RegistryError(ZpipeError):
    """The registry is not there, refuses, or speaks another version."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class RunError(ZpipeError):
    """The run as a whole failed; `detail` is the traceback of the user's code where there is one."""

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class CallError(ZpipeError):
    """A stage that was called failed, or nobody has answered."""


class SaveError(ZpipeError):
    """A save of a stage with memory cannot be read or written."""
