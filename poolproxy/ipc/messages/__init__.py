"""What acceptor and worker say to each other.

Every message is a frozen attrs class registered with :func:`message`; the codec, the schema hash
and the tests are derived from these classes. Times are ``time.monotonic()`` in seconds: that
clock is the same for all processes of a machine (trio's has an offset of its own in each).
Connections and permits are named by id, never by fd number.
"""

from __future__ import annotations

from poolproxy.ipc.messages.cancels import (
    Cancel,
    CancelDone,
    CancelMissed,
    CancelRequest,
    PassOn,
)
from poolproxy.ipc.messages.client_moves import (
    ClientArrival,
    ClientArrived,
    ClientMove,
    ClientMoved,
    ClientNames,
    ClientSecrets,
    ClientState,
    Gather,
    NamedStatement,
    Relayed,
    RelayEnds,
    Shed,
    Unrelay,
)
from poolproxy.ipc.messages.clients import (
    Accepted,
    Admit,
    ClientsGone,
    ClientUp,
    Drain,
    FindRoom,
    Handoff,
    Login,
)
from poolproxy.ipc.messages.console import (
    Command,
    ConsoleCommand,
    ConsoleEnd,
    ConsoleNext,
    ConsoleRows,
    ConsoleUp,
    Done,
    Hold,
    Inspect,
    Inspected,
)
from poolproxy.ipc.messages.parts import (
    CancelKey,
    Parameter,
    PoolKey,
)
from poolproxy.ipc.messages.permits import (
    Blocked,
    Candidate,
    LoginWant,
    NoServer,
    Permit,
    Reclaim,
    WaitReason,
    Want,
    WhyWait,
)
from poolproxy.ipc.messages.registry import FDS, MANY, REGISTRY, message
from poolproxy.ipc.messages.server_moves import (
    Leftover,
    NoneIdle,
    ServersCome,
    ServerState,
    ServerTaken,
    ServerYielded,
    SessionPart,
    Yield,
    YieldIdle,
)
from poolproxy.ipc.messages.servers import (
    HostSeen,
    PoolFailing,
    Resolve,
    Resolved,
    ServerClosed,
    ServerFailed,
    ServerOpening,
    ServerUp,
    Welcome,
)
from poolproxy.ipc.messages.workers import (
    Begin,
    Bye,
    Collect,
    ConfigFile,
    Configure,
    Leave,
    Load,
    Ready,
    Retire,
    Snapshot,
)

Message = (
    Begin | Configure | Handoff | Permit | Reclaim | Welcome | PoolFailing | Admit | Cancel | Collect | Leave
    | NoServer | Blocked | Ready | Want | ServerOpening | ServerUp | ServerFailed | ServerClosed | Login
    | FindRoom | ClientUp | ClientsGone | CancelRequest | CancelDone | Snapshot | Bye | LoginWant
    | WaitReason | WhyWait | ConsoleRows | ConsoleEnd | Inspect | Hold | Command | ConsoleUp | ConsoleCommand
    | ConsoleNext | Inspected | Done | Drain | Resolved | HostSeen | Resolve
    | ClientArrival | ClientMoved | Shed | Retire | ClientMove | ClientArrived | CancelMissed | Load | PassOn
    | Gather | RelayEnds | Unrelay | Yield | YieldIdle | ServersCome | ServerYielded | ServerTaken | NoneIdle
)  # fmt: skip

__all__ = [
    "FDS",
    "MANY",
    "REGISTRY",
    "Accepted",
    "Admit",
    "Begin",
    "Blocked",
    "Bye",
    "Cancel",
    "CancelDone",
    "CancelKey",
    "CancelMissed",
    "CancelRequest",
    "Candidate",
    "ClientArrival",
    "ClientArrived",
    "ClientMove",
    "ClientMoved",
    "ClientNames",
    "ClientSecrets",
    "ClientState",
    "ClientUp",
    "ClientsGone",
    "Collect",
    "Command",
    "ConfigFile",
    "Configure",
    "ConsoleCommand",
    "ConsoleEnd",
    "ConsoleNext",
    "ConsoleRows",
    "ConsoleUp",
    "Done",
    "Drain",
    "FindRoom",
    "Gather",
    "Handoff",
    "Hold",
    "HostSeen",
    "Inspect",
    "Inspected",
    "Leave",
    "Leftover",
    "Load",
    "Login",
    "LoginWant",
    "Message",
    "NamedStatement",
    "NoServer",
    "NoneIdle",
    "Parameter",
    "PassOn",
    "Permit",
    "PoolFailing",
    "PoolKey",
    "Ready",
    "Reclaim",
    "RelayEnds",
    "Relayed",
    "Resolve",
    "Resolved",
    "Retire",
    "ServerClosed",
    "ServerFailed",
    "ServerOpening",
    "ServerState",
    "ServerTaken",
    "ServerUp",
    "ServerYielded",
    "ServersCome",
    "SessionPart",
    "Shed",
    "Snapshot",
    "Unrelay",
    "WaitReason",
    "Want",
    "Welcome",
    "WhyWait",
    "Yield",
    "YieldIdle",
    "message",
]
