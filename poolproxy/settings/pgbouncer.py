"""What there is to know of PgBouncer's settings beside their meaning, which ours have."""

from __future__ import annotations

# Every setting of the section [pgbouncer] of PgBouncer 1.25, with its default as the file would have it; ""
# where there is none.
GLOBAL = {
    "logfile": "",
    "pidfile": "",
    "user": "",
    "conffile": "",
    "job_name": "pgbouncer",
    "service_name": "pgbouncer",
    "syslog": "0",
    "syslog_ident": "pgbouncer",
    "syslog_facility": "daemon",
    "verbose": "0",
    "log_connections": "1",
    "log_disconnections": "1",
    "log_pooler_errors": "1",
    "log_stats": "1",
    "stats_period": "60",
    "listen_addr": "",
    "listen_port": "6432",
    "listen_backlog": "128",
    "unix_socket_dir": "/tmp",
    "unix_socket_mode": "0777",
    "unix_socket_group": "",
    "so_reuseport": "0",
    "tcp_defer_accept": "1",
    "tcp_socket_buffer": "0",
    "tcp_keepalive": "1",
    "tcp_keepcnt": "0",
    "tcp_keepidle": "0",
    "tcp_keepintvl": "0",
    "tcp_user_timeout": "0",
    "pkt_buf": "4096",
    "max_packet_size": "2147483647",
    "sbuf_loopcnt": "5",
    "peer_id": "0",
    "pool_mode": "session",
    "max_client_conn": "100",
    "default_pool_size": "20",
    "min_pool_size": "0",
    "reserve_pool_size": "0",
    "reserve_pool_timeout": "5",
    "max_db_connections": "0",
    "max_user_connections": "0",
    "max_db_client_connections": "0",
    "max_user_client_connections": "0",
    "server_round_robin": "0",
    "max_prepared_statements": "200",
    "disable_pqexec": "0",
    "track_extra_parameters": "IntervalStyle",
    "ignore_startup_parameters": "",
    "application_name_add_host": "0",
    "query_wait_notify": "5",
    "login_notify_message": "",
    "server_reset_query": "DISCARD ALL",
    "server_reset_query_always": "0",
    "server_check_query": "<empty>",
    "server_check_delay": "30",
    "server_lifetime": "3600",
    "server_idle_timeout": "600",
    "server_connect_timeout": "15",
    "server_login_retry": "15",
    "server_fast_close": "0",
    "autodb_idle_timeout": "3600",
    "pool_idle_timeout": "0",
    "dns_max_ttl": "15",
    "dns_nxdomain_ttl": "15",
    "dns_zone_check_period": "0",
    "resolv_conf": "",
    "query_wait_timeout": "120",
    "query_timeout": "0",
    "idle_transaction_timeout": "0",
    "transaction_timeout": "0",
    "client_idle_timeout": "0",
    "client_login_timeout": "60",
    "cancel_wait_timeout": "10",
    "suspend_timeout": "10",
    "auth_type": "md5",
    "auth_file": "",
    "auth_hba_file": "",
    "auth_ident_file": "",
    "auth_user": "",
    "auth_query": (
        "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END "
        "FROM pg_authid WHERE rolname=$1 AND rolcanlogin"
    ),
    "auth_dbname": "",
    "auth_ldap_options": "",
    "scram_iterations": "4096",
    "admin_users": "",
    "stats_users": "",
    "client_tls_sslmode": "disable",
    "client_tls_key_file": "",
    "client_tls_cert_file": "",
    "client_tls_ca_file": "",
    "client_tls_protocols": "secure",
    "client_tls_ciphers": "default",
    "client_tls13_ciphers": "",
    "client_tls_dheparams": "auto",
    "client_tls_ecdhcurve": "auto",
    "server_tls_sslmode": "prefer",
    "server_tls_key_file": "",
    "server_tls_cert_file": "",
    "server_tls_ca_file": "",
    "server_tls_protocols": "secure",
    "server_tls_ciphers": "default",
    "server_tls13_ciphers": "",
}

# A further header [pgbouncer] sets all settings back to their defaults, but these have none there.
WITHOUT_DEFAULT = frozenset(
    {
        *("user", "verbose", "auth_file", "auth_ident_file", "auth_user", "auth_dbname"),
        *("auth_ldap_options", "client_tls13_ciphers", "server_tls13_ciphers"),
    }
)

# Settings that are accepted and do nothing, with the reason.
WITHOUT_MEANING = {
    "conffile": "the file is the one of the command line",
    "job_name": "it is for Windows",
    "service_name": "it is for Windows",
    "pkt_buf": "memory is taken only for what does not fit into the sockets' buffers",
    "sbuf_loopcnt": "the relay shares its time out by itself",
    "resolv_conf": "names are resolved as the system does it",
    "dns_zone_check_period": "zones are not looked at, only names",
    "client_tls_dheparams": "keys are exchanged by elliptic curves",
}

# Those that PgBouncer has on Windows only.
WINDOWS = frozenset({"service_name"})

# What an operator should know of some settings that are in force.
DIFFERENT = {
    "auth_query": "our default means the same, and leaves nothing to the search_path",
    "client_tls_protocols": "a version between two others can't be left out",
    "server_tls_protocols": "a version between two others can't be left out",
    "tcp_user_timeout": "a whole number of milliseconds there, a time in TOML",
    "verbose": "`-v` counts where the file has none",
    "disable_pqexec": "a reload changes it for clients that log in later; there it takes a restart",
    "autodb_idle_timeout": "what was counted is not forgotten",
    "query_wait_notify": "fractions of a second, too",
    "user": "also where it is not set root may run it, with a warning",
}

# Other names of settings in [databases].
ALIASES = {"reserve_pool": "reserve_pool_size"}
