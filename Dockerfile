# docker build -t poolproxy .
# docker run -v ./poolproxy.toml:/etc/poolproxy/poolproxy.toml:ro -p 6432:6432 poolproxy
FROM python:3.11-slim AS build
COPY . /src
RUN python -m venv /opt/poolproxy && /opt/poolproxy/bin/pip install --no-cache-dir /src

FROM python:3.11-slim
COPY --from=build /opt/poolproxy /opt/poolproxy
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin poolproxy
USER poolproxy
ENV PATH=/opt/poolproxy/bin:$PATH PYTHONUNBUFFERED=1
EXPOSE 6432 9127
# TERM drains: give it longer than shutdown_timeout (docker stop --time 40, stop_grace_period in Compose).
STOPSIGNAL SIGTERM
# It asks where metrics_listen = "*:9127" answers; set that, or run with --no-healthcheck.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD \
    ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:9127/healthz', timeout=4)"]
# Not through a shell: the signals are for poolproxy itself.
ENTRYPOINT ["poolproxy"]
CMD ["run", "/etc/poolproxy/poolproxy.toml"]
