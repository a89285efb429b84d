"""The demo's sample data: pgbench's tables at scale 1, so that ``pgbench -n`` works on them."""

from __future__ import annotations

USER = "demo"
PASSWORD = "demo"
DATABASE = "demo"
ACCOUNTS = 100_000
TELLERS = 10

CREATE_DATABASE = f"""
CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}';
CREATE DATABASE {DATABASE} OWNER {USER};
"""

FILL_DATABASE = f"""
SET ROLE {USER};
CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int, filler char(88));
CREATE TABLE pgbench_tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84));
CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84));
CREATE TABLE pgbench_history (
    tid int, bid int, aid int, delta int, mtime timestamp, filler char(22)
);
INSERT INTO pgbench_branches VALUES (1, 0, '');
INSERT INTO pgbench_tellers SELECT i, 1, 0, '' FROM generate_series(1, {TELLERS}) i;
INSERT INTO pgbench_accounts SELECT i, 1, 0, '' FROM generate_series(1, {ACCOUNTS}) i;
ANALYZE pgbench_branches, pgbench_tellers, pgbench_accounts;
"""
