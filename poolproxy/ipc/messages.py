"""What acceptor and worker say to each other.

Every message is a frozen attrs class registered with :func:`message`; the codec, the schema hash
and the tests are derived from these classes. Times are ``time.monotonic()`` in seconds: that
clock is the same for all processes of a machine (trio's has an offset of its own in each).
Connections and permits are named by id, never by fd number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import attrs

REGISTRY: dict[int, type] = {}
FDS: dict[type, int] = {}
MANY = -1  # as many descriptors as the message's tuple field has items

T = TypeVar("T", bound=type)


def message(kind: int, *, fds: int = 0) -> Callable[[T], T]:
    """Register a message class under the number ``kind`` (1..255), carrying ``fds`` descriptors."""

    def register(cls: T) -> T:
        if kind in REGISTRY:
            raise ValueError(f"message kind {kind} is taken by {REGISTRY[kind].__name__}")
        REGISTRY[kind] = cls
        FDS[cls] = fds
        return cls

    return register


@attrs.frozen
class PoolKey:
    """A pool: a database entry of the configuration and the user its servers log in as."""

    database: str
    user: str


@attrs.frozen
class Accepted:
    """One accepted client socket. ``local`` is the address it came in on ("unix" or host). The peer of
    a Unix socket is "unix", with its process id as ``port``.
    """

    id: int
    peer: str
    port: int
    local: str
    local_port: int
    accepted_at: float
    refused: bool  # over max_client_conn: the worker answers with the error and closes


@attrs.frozen
class CancelKey:
    """What a CancelRequest carries: the process id and the secret of BackendKeyData."""

    pid: int
    secret: bytes


@attrs.frozen
class Parameter:
    """One ParameterStatus of the server."""

    name: str
    value: str


@attrs.frozen
class ConfigFile:
    """The text of a file of the configuration; ``setting`` names it."""

    setting: str
    text: str = attrs.field(repr=False)


@attrs.frozen
class Leftover:
    """Session state that a client has left on a server connection, see ``wire.session_state``."""

    kind: str
    name: bytes
    phrase: str


@attrs.frozen
class SessionPart:
    """What is known besides of a server connection in session mode, see ``relay.session``. ``wish`` and
    ``initial`` are values of parameters as those of its :class:`ServerState`.
    """

    welcome: tuple[Parameter, ...]
    wish: tuple[str | None, ...] | None
    initial: tuple[str | None, ...]


@attrs.frozen
class ServerState:
    """All that is known of a server connection at rest, so that another process can go on with it; its
    descriptor travels beside it. Made and read by ``relay.moving``.

    ``generation``: of the configuration with which it was in use. ``host`` and ``port``: where the
    configuration has it; ``role`` as in :class:`HostSeen`. ``family`` and ``where``: its address, as
    socket.connect takes it. ``tracked``: the names of the parameters whose ``values`` are known, the last
    value being that of the unreported ones. ``prepared``: names of the shared statements that it has, the
    least recently used first, and their ``shapes`` there (``wire.shapes``). ``doomed``: why it is closed when
    it is free, "" if it is not.
    """

    permit: int
    pool: PoolKey
    generation: int
    keep: bool
    name: str
    key: CancelKey
    host: str
    port: int
    role: str
    family: int
    where: tuple[str | int, ...]
    connected_at: float
    idle_since: float
    last_activity: float
    tracked: tuple[str, ...]
    values: tuple[str | None, ...]
    prepared: tuple[bytes, ...]
    shapes: tuple[bytes, ...]
    leftovers: tuple[Leftover, ...]
    was_reset: bool
    doomed: str
    session: SessionPart | None


@attrs.frozen
class Candidate:
    """A host that an attempt may try. ``suspect``: it has failed before, so it gets little time."""

    host: str
    port: int
    suspect: bool


@attrs.frozen
class NamedStatement:
    """A prepared statement that a client has: its own ``name`` of it, the name that ``servers`` know it by,
    and the ``tail`` of its Parse message (``wire.statements``). ``told``: the shape (``wire.shapes``) that it
    knows, b"" if it has not asked.
    """

    name: bytes
    servers: bytes
    tail: bytes
    told: bytes


@attrs.frozen
class ClientNames:
    """The prepared statements of a client; ``unnamed`` and ``passed`` as in ``wire.statements.Names``."""

    statements: tuple[NamedStatement, ...]
    unnamed: bool
    passed: bool


@attrs.frozen
class ClientSecrets:
    """With what another worker can log in to PostgreSQL for a client's pool, as far as a file does not tell:
    the SCRAM keys of a client's log-in, the ``password`` of one by pam or ldap, and what auth_query has said
    of the pool's user, ``found_at`` then (0: it was not asked). ``secret`` None: there is no such user.
    """

    client_key: bytes = attrs.field(repr=False)
    server_key: bytes = attrs.field(repr=False)
    password: bytes | None = attrs.field(repr=False)
    secret: bytes | None = attrs.field(repr=False)
    found_at: float


@attrs.frozen
class ClientState:
    """A quiet client, all that its next worker has to know. ``user``: the one it has logged in as; the
    database that it has asked for is the pool's. ``session``: it has logged in to a pool in session mode;
    ``taken_at`` as in ``relay.session``. ``extended``: it may send no simple queries.

    ``values``: the tracked parameters, ``unreported`` the other ones of its start-up packet
    (``wire.unreported``).
    """

    id: int
    pool: PoolKey
    user: str
    session: bool
    extended: bool
    key: CancelKey
    values: tuple[Parameter, ...]
    unreported: str | None
    peer: str
    port: int
    connected_at: float
    last_activity: float
    taken_at: float
    names: ClientNames | None
    secrets: ClientSecrets


# -- acceptor -> worker ---------------------------------------------------------------------------


@message(180)
@attrs.frozen
class Begin:
    """You are the worker in this slot from now on. The first message: until it comes a process is a spare."""

    slot: int


@message(1)
@attrs.frozen
class Configure:
    """The configuration that the acceptor has just validated. ``text`` is TOML, whatever format its file
    has, so that a worker knows but one.

    ``path`` serves for messages and relative names only: the worker reads no file again. ``mock_key``:
    32 random bytes, the same for all workers and the whole run, from which unknown users get salts.
    """

    generation: int
    path: str
    text: str
    auth_file: str  # the text of userlist.txt, "" if there is none
    mock_key: bytes
    files: tuple[ConfigFile, ...] = ()


@message(2, fds=MANY)
@attrs.frozen
class Handoff:
    """Accepted client sockets, one descriptor each, in the order of ``clients``."""

    clients: tuple[Accepted, ...]


@message(3)
@attrs.frozen
class Permit:
    """The right to hold one server connection. ``keep``: not to be closed for idleness (min_pool_size).

    ``client``: the permit answers the :class:`LoginWant` of this client; 0: it is for whoever waits.
    ``hosts``: which hosts to try, in this order; none: the configuration has no choice.
    """

    permit: int
    pool: PoolKey
    keep: bool
    client: int = 0
    hosts: tuple[Candidate, ...] = ()


@message(4)
@attrs.frozen
class Reclaim:
    """Give ``count`` permits of the pool back: idle servers at once, others as they are freed.

    The number is absolute: it replaces what an earlier Reclaim for the pool asked for; 0 withdraws it.
    """

    pool: PoolKey
    count: int


@message(5)
@attrs.frozen
class Welcome:
    """The parameters with which clients of the pool are welcomed, once a first server has logged in.

    An empty tuple means: forget what was cached.
    """

    pool: PoolKey
    parameters: tuple[Parameter, ...]


@message(6)
@attrs.frozen
class PoolFailing:
    """Log-ins to the pool's server fail and it has no connected server; clients that need one fail fast.

    ``reason`` is the cached error, "" when log-ins work again. With ``kill_waiting`` the clients
    that wait now get ``reason`` and ``sqlstate`` as their error (the server itself has refused).
    """

    pool: PoolKey
    reason: str
    sqlstate: str
    kill_waiting: bool


@message(7)
@attrs.frozen
class Admit:
    """The answer to :class:`Login`: ``limit`` names the setting that is exceeded, "" if none is."""

    client: int
    limit: str


@message(8)
@attrs.frozen
class Cancel:
    """Cancel what the client with this key is running; answer with :class:`CancelDone`."""

    request: int
    key: CancelKey


@message(9)
@attrs.frozen
class Collect:
    """Send a :class:`Snapshot` now, numbered ``request``; also the sign of life that is asked for."""

    request: int


@message(10)
@attrs.frozen
class Leave:
    """Leave. mode: "clients" (when all clients have left; those that log in are refused), "retire" (the same,
    but they are let in), "servers" (SIGINT: refuse waiting clients, close servers as they are freed), "now".
    """

    mode: str


@message(11)
@attrs.frozen
class NoServer:
    """The other answer to :class:`LoginWant`: the client logs in without a server connection."""

    client: int


@message(12)
@attrs.frozen
class Blocked:
    """Clients of a session pool wait, and a limit is what keeps them waiting (``blocked``), or is no more.

    A worker closes then what stands in its own clients' way: servers that logged-in clients have not used
    yet, and those that were opened with other clients' start-up parameters.
    """

    pool: PoolKey
    blocked: bool


@message(13)
@attrs.frozen
class WaitReason:
    """The answer to :class:`WhyWait`. ``limit`` names the setting that allows no further server connection,
    ``size`` is its value; "" if none does. ``failing``: why the last log-in to the server failed, "" if a
    next one may be tried. ``waiting``: clients over all workers, as far as they have told.
    """

    pool: PoolKey
    limit: str
    size: int
    failing: str
    waiting: int


@message(25, fds=MANY)
@attrs.frozen
class ClientArrival:
    """A quiet client of another worker, in session mode with its server; answered by :class:`ClientArrived`.

    ``sockets`` has an item for each descriptor: the client's id, and the server's permit. One that was lost
    on the way is a reason to refuse the client.
    """

    sockets: tuple[int, ...]
    state: ClientState
    server: ServerState | None


@message(26)
@attrs.frozen
class ClientMoved:
    """The answer to :class:`ClientMove`. ``refused`` "": another worker has the client, forget it. Else it
    stays here, and that is why; if it is ``lost`` the other worker may have read of it before it died: close
    it.
    """

    client: int
    refused: str
    lost: bool = False


@message(27)
@attrs.frozen
class Shed:
    """Move clients that make up ``share`` (0 to 1) of this worker's work, at most ``most`` of them, to the
    worker with the number ``target``. It replaces an earlier one for the same target.
    """

    target: int
    share: float
    most: int


@message(28)
@attrs.frozen
class Retire:
    """Another worker has taken this one's place: move all clients there or to others, as they become quiet,
    and leave when all are gone. ``timeout`` seconds later those that are left are disconnected; 0: never.
    """

    timeout: float


@message(30)
@attrs.frozen
class ConsoleRows:
    """Rows of the command that a console client has given; None is NULL. Answered by :class:`ConsoleNext`."""

    client: int
    rows: tuple[tuple[str | None, ...], ...]


@message(31)
@attrs.frozen
class ConsoleEnd:
    """The command has ended: with ``tag``, or with an error. ``notice``: what the client is told beside it.

    ``close``: close the connection without a word.
    """

    client: int
    tag: str = ""
    error: str = ""
    sqlstate: str = ""
    hint: str = ""
    notice: str = ""
    close: bool = False


@message(32)
@attrs.frozen
class Inspect:
    """Make the rows of a SHOW command (its name is ``what``) of what the worker has: the first part of them,
    when asked again the next one. Each is answered by :class:`Inspected`. ``stop``: no more are wanted.
    """

    request: int
    what: str
    stop: bool = False


@message(33)
@attrs.frozen
class Hold:
    """What the operator has stopped, all of it; answered by :class:`Done` when the worker complies.

    ``paused``: every database is, beside those in ``databases``. ``disabled``: databases that refuse clients.
    """

    request: int
    paused: bool
    suspended: bool
    databases: tuple[str, ...]
    disabled: tuple[str, ...]


@message(34)
@attrs.frozen
class Command:
    """The worker's part of a console command: ``verb`` is KILL, RECONNECT (``argument``: a database, "" for
    all) or KILL_CLIENT (a client's number); answered by :class:`Done`.
    """

    request: int
    verb: str
    argument: str


@message(35)
@attrs.frozen
class Drain:
    """Send the clients of a database away (57P01), each when it is between two transactions, spread over the
    time until ``until``, and at ``deadline``, if it is not 0, those that are left; let no others in.
    ``until`` 0: let clients in again.

    ``database`` "" is all databases; letting nobody in is then for the acceptor.
    """

    database: str
    until: float
    deadline: float = 0.0


@message(40)
@attrs.frozen
class Resolved:
    """What a host name stands for now: the answer to :class:`Resolve`, and sent unasked when it changes.
    ``error`` is why there are no ``addresses``.
    """

    name: str
    addresses: tuple[str, ...]
    error: str


@message(41)
@attrs.frozen
class PassOn:
    """Pass this CancelRequest on to another instance; answer with :class:`CancelDone`."""

    request: int
    host: str
    port: int
    key: CancelKey


@message(20)
@attrs.frozen
class Yield:
    """Hand ``count`` servers of the pool over (:class:`ServerYielded`) for clients of other workers, the
    oldest of whom waits since ``since``: idle servers at once; then those that are freed while no client of
    its own has waited as long.

    The numbers are absolute: they replace what an earlier one for the pool asked for; 0 withdraws it. What
    can't be moved is closed instead, so that its permit moves.
    """

    pool: PoolKey
    count: int
    since: float


@message(21)
@attrs.frozen
class YieldIdle:
    """Hand an idle server of the pool over now, for a client that logs in with another worker; answered by
    :class:`ServerYielded` with its number, or by :class:`NoneIdle`.
    """

    pool: PoolKey
    client: int


@message(22, fds=MANY)
@attrs.frozen
class ServersCome:
    """Servers that another worker has yielded, one descriptor each. Each is answered by
    :class:`ServerTaken`. ``client``: there is one, in answer to the :class:`LoginWant` of this client, or 0.
    """

    servers: tuple[ServerState, ...]
    client: int


# -- worker -> acceptor ---------------------------------------------------------------------------


@message(64)
@attrs.frozen
class Ready:
    """The worker is up and has loaded configuration ``generation``."""

    pid: int
    generation: int
    schema: str
    compiled: bool


@message(65)
@attrs.frozen
class Want:
    """The worker's need for servers of a pool; replaces its earlier one.

    ``waiting`` clients have no server, the oldest since ``since``; 0 withdraws the want. ``login``
    is true if one of them waits for its log-in because no welcome is cached. ``probe``: nobody waits,
    but a client has just failed fast; try to log in if server_login_retry allows.

    A grant does not use a want up: it stands until the worker replaces it. While clients wait it is
    told again when its numbers have changed, at most every 0.1 s (the ledger reckons with that age).
    """

    pool: PoolKey
    waiting: int
    since: float
    login: bool
    probe: bool


@message(66, fds=1)
@attrs.frozen
class ServerOpening:
    """Sent before connect(), with a duplicate of the socket: after this worker's death the acceptor
    uses it to end the server connection. ``host`` and ``port`` are where a CancelRequest would go.
    """

    permit: int
    host: str
    port: int


@message(67)
@attrs.frozen
class ServerUp:
    """The server connection has logged in. ``parameters`` are its ParameterStatus values in order.
    ``movable``: it could go to another worker.

    Sent after the Want that no longer counts the client which this server serves, else the ledger
    grants one permit too many.
    """

    permit: int
    key: CancelKey
    connect_seconds: float
    parameters: tuple[Parameter, ...]
    movable: bool = True


@message(68)
@attrs.frozen
class ServerFailed:
    """A server connection could not be made. The permit comes back by its own :class:`ServerClosed`.

    ``from_server``: PostgreSQL answered, with this error (then ``sqlstate`` is its own) or with a
    request that can't be fulfilled. Either way those who wait need not wait for the next attempt.
    ``reason`` is "" if it was the fault of one client's start-up parameters: this says nothing of the pool.
    """

    permit: int
    reason: str
    sqlstate: str
    from_server: bool


@message(69)
@attrs.frozen
class ServerClosed:
    """The permit is no longer used. ``clean``: PostgreSQL has closed its end (or never had one);
    else server_close_timeout has passed without that.
    """

    permit: int
    clean: bool


@message(70)
@attrs.frozen
class Login:
    """A client has authenticated and wants in; sent only where a client limit is configured for its
    database or user. Answered by :class:`Admit`. Admission lasts until :class:`ClientsGone`.
    """

    client: int
    database: str
    user: str


@message(71)
@attrs.frozen
class ClientUp:
    """A client has logged in: its cancel key, its pool, and the user it logged in as."""

    client: int
    key: CancelKey
    pool: PoolKey
    user: str


@message(72)
@attrs.frozen
class ClientsGone:
    """These accepted sockets are closed, logged in or not."""

    clients: tuple[int, ...]


@message(73)
@attrs.frozen
class CancelRequest:
    """A CancelRequest has arrived from a client; answered by :class:`CancelDone` to the same worker."""

    request: int
    key: CancelKey


@message(74)
@attrs.frozen
class CancelDone:
    """The cancel with this number is finished, sent on or not. Goes both ways."""

    request: int


@message(75)
@attrs.frozen
class Snapshot:
    """The metrics as they are now (poolproxy.metrics.snapshot); ``request`` as in Collect, else 0."""

    request: int
    data: bytes


@message(76)
@attrs.frozen
class Bye:
    """The worker's last words: why it ends ("left" is the expected one)."""

    reason: str


@message(77)
@attrs.frozen
class LoginWant:
    """A client of a session pool logs in and would like a server connection from the start, if nobody
    waits and a permit can be had. Answered by a :class:`Permit` for it, or by :class:`NoServer`. If it is
    gone before, a second message says that it is not ``wanted``.
    """

    client: int
    pool: PoolKey
    wanted: bool = True


@message(78)
@attrs.frozen
class WhyWait:
    """Clients of the pool have waited for query_wait_notify: what for? Answered by :class:`WaitReason`."""

    pool: PoolKey


@message(85, fds=MANY)
@attrs.frozen
class ClientMove:
    """A quiet client is to go to another worker: the one with the number ``target``, 0 for whichever has most
    room. This one reads it no more, and keeps its own descriptors until :class:`ClientMoved`. ``sockets`` as
    in :class:`ClientArrival`.
    """

    sockets: tuple[int, ...]
    target: int
    state: ClientState
    server: ServerState | None


@message(86)
@attrs.frozen
class ClientArrived:
    """The answer to :class:`ClientArrival`. ``refused``: why this worker does not take the client, "" if it
    does. It reads nothing of the client before this is sent.
    """

    client: int
    refused: str


@message(87)
@attrs.frozen
class CancelMissed:
    """The answer to a :class:`Cancel` for a client that is on its way to another worker: ask that one."""

    request: int


@message(88)
@attrs.frozen
class Load:
    """How much processor time the worker has used in all, in seconds, ``at`` that time."""

    at: float
    cpu: float


@message(90)
@attrs.frozen
class ConsoleUp:
    """A client has logged in to the console; it does not count against max_client_conn any more."""

    client: int
    key: CancelKey
    user: str


@message(91)
@attrs.frozen
class ConsoleCommand:
    """A console client has given a command, which its worker has found to be one, and allowed."""

    client: int
    text: str


@message(92)
@attrs.frozen
class ConsoleNext:
    """The client has taken the rows: it can have more. ``stop``: it is gone, and its command is moot."""

    client: int
    stop: bool = False


@message(93)
@attrs.frozen
class Inspected:
    """A part of what :class:`Inspect` has asked for; ``last``: there is no more."""

    request: int
    rows: tuple[tuple[str | None, ...], ...]
    last: bool


@message(94)
@attrs.frozen
class Done:
    """What :class:`Hold` or :class:`Command` has asked for is done; ``count``: to how many it was."""

    request: int
    count: int = 0


@message(100)
@attrs.frozen
class HostSeen:
    """What became of trying one host for a server of the pool, or what a server there has shown to be.

    ``failure``: why it could not be reached, "" if it could. ``role``: what it is (pool.hosts.Role), "" if
    not known. ``serves``: the pool has a new server there.
    """

    pool: PoolKey
    host: str
    port: int
    failure: str
    role: str
    serves: bool


@message(101)
@attrs.frozen
class Resolve:
    """Which addresses does this host name have? Answered by :class:`Resolved`."""

    name: str


@message(80)
@attrs.frozen
class ServerYielded:
    """A server that this worker has let go of; the acceptor's duplicate of its descriptor is all that keeps
    it open. ``want``: the worker's need now, if it differs from what it told last. ``client``: see YieldIdle.
    """

    server: ServerState
    want: Want | None
    client: int = 0


@message(81)
@attrs.frozen
class ServerTaken:
    """A server that has come is in use here; ``want`` as in :class:`ServerYielded`. If it was not ``taken``
    the worker has closed its descriptor, and the acceptor ends the connection.
    """

    permit: int
    taken: bool
    want: Want | None


@message(82)
@attrs.frozen
class NoneIdle:
    """The other answer to :class:`YieldIdle`: there is no idle server."""

    pool: PoolKey
    client: int


Message = (
    Begin | Configure | Handoff | Permit | Reclaim | Welcome | PoolFailing | Admit | Cancel | Collect | Leave
    | NoServer | Blocked | Ready | Want | ServerOpening | ServerUp | ServerFailed | ServerClosed | Login
    | ClientUp | ClientsGone | CancelRequest | CancelDone | Snapshot | Bye | LoginWant
    | WaitReason | WhyWait | ConsoleRows | ConsoleEnd | Inspect | Hold | Command | ConsoleUp | ConsoleCommand
    | ConsoleNext | Inspected | Done | Drain | Resolved | HostSeen | Resolve
    | ClientArrival | ClientMoved | Shed | Retire | ClientMove | ClientArrived | CancelMissed | Load | PassOn
    | Yield | YieldIdle | ServersCome | ServerYielded | ServerTaken | NoneIdle
)  # fmt: skip
