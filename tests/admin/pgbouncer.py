"""The columns of PgBouncer 1.25's console, copied from its documentation and code.

A letter for each type: T text, i int4, q int8, N numeric, b bytea.
"""

from __future__ import annotations

TYPES = {"T": 25, "i": 23, "q": 20, "N": 1700, "b": 17}

_COUNTS = (
    "server_assignment_count xact_count query_count {received} {sent} xact_time query_time wait_time"
    " client_parse_count server_parse_count bind_count client_login_count"
)
_TOTAL = _COUNTS.format(received="received", sent="sent").split()
_AVG = _COUNTS.format(received="recv", sent="sent").split()
_LIST = _COUNTS.format(received="bytes_received", sent="bytes_sent").split()

_SOCKET = (
    "type T, user T, database T, replication T, state T, addr T, port i, local_addr T, local_port i,"
    " connect_time T, request_time T, wait i, wait_us i, close_needed i, ptr T, link T, remote_pid i, tls T,"
    " application_name T, prepared_statements i, id i"
)
_BUFFERS = (
    ", recv_pos i, pkt_pos i, pkt_remain i, send_pos i, send_remain i, pkt_avail i, send_avail i"
)
COLUMNS = {
    "STATS": "database T, "
    + ", ".join([f"total_{n} N" for n in _TOTAL] + [f"avg_{n} N" for n in _AVG]),
    "STATS_TOTALS": "database T, " + ", ".join(f"{n} N" for n in _LIST),
    "STATS_AVERAGES": "database T, "
    + ", ".join([f"{n} N" for n in _LIST[:-4]] + [f"avg_{n} N" for n in _LIST[-4:]]),
    "TOTALS": "name T, value N",
    "POOLS": "database T, user T, cl_active i, cl_waiting i, cl_active_cancel_req i,"
    " cl_waiting_cancel_req i, sv_active i, sv_active_cancel i, sv_being_canceled i, sv_idle i, sv_used i,"
    " sv_tested i, sv_login i, maxwait i, maxwait_us i, pool_mode T, load_balance_hosts T",
    "PEER_POOLS": "peer_id i, cl_active_cancel_req i, cl_waiting_cancel_req i, sv_active_cancel i,"
    " sv_login i",
    "CLIENTS": _SOCKET,
    "SERVERS": _SOCKET,
    "SOCKETS": _SOCKET + _BUFFERS,
    "ACTIVE_SOCKETS": _SOCKET + _BUFFERS,
    "DATABASES": "name T, host T, port i, database T, force_user T, pool_size i, min_pool_size i,"
    " reserve_pool_size i, server_lifetime i, pool_mode T, load_balance_hosts T, max_connections i,"
    " current_connections i, max_client_connections i, current_client_connections i, paused i, disabled i",
    "USERS": "name T, pool_size T, reserve_pool_size T, pool_mode T, max_user_connections i,"
    " current_connections i, max_user_client_connections i, current_client_connections i",
    "PEERS": "peer_id i, host T, port i, pool_size i",
    "LISTS": "list T, items i",
    "CONFIG": "key T, value T, default T, changeable T",
    "STATE": "key T, value T",
    "MEM": "name T, size i, used i, free i, memtotal i",
    "DNS_HOSTS": "hostname T, ttl q, addrs T",
    "DNS_ZONES": "zonename T, serial q, count i",
    "VERSION": "version T",
    "FDS": "fd i, task T, user T, database T, addr T, port i, cancel q, link i, client_encoding T,"
    " std_strings T, datestyle T, timezone T, password T, scram_client_key b, scram_server_key b",
}
LISTS = [
    *("databases", "users", "peers", "pools", "peer_pools", "free_clients", "used_clients"),
    *("login_clients", "free_servers", "used_servers", "dns_names", "dns_zones", "dns_queries"),
    "dns_pending",
]
_TOTALS = _COUNTS.format(received="client_bytes", sent="server_bytes")
for _name in ("client_parse", "server_parse", "bind"):
    _TOTALS = _TOTALS.replace(f" {_name}", f" ps_{_name}")
TOTALS = [f"{prefix}_{name}" for prefix in ("total", "avg") for name in _TOTALS.split()]


def columns(command: str) -> list[tuple[str, int]]:
    """(name, oid of the type) of each column of a SHOW command."""
    found = (item.split() for item in COLUMNS[command].split(","))
    return [(name, TYPES[letter]) for name, letter in found]
