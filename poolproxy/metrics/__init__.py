"""What poolproxy counts: the registry, its way between processes, and its views.

``schema`` is the table. ``snapshot`` carries a worker's counts to the acceptor, ``merge`` adds
them up, ``exposition`` shows them to Prometheus; ``grafana`` and ``reference`` print a dashboard
and a documentation page from the same table.
"""
