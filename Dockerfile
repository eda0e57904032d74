# One image for every role: `docker run -p 8700:8700 tollway` runs everything on one machine with the embedded
# database in /data; `tollway api`, `tollway worker` and `tollway keeper` run the roles apart (see deploy/compose.yaml).

FROM python:3.12-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /build
RUN python -m venv /opt/tollway
COPY requirements.lock ./
RUN /opt/tollway/bin/pip install --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/tollway/bin/pip install --no-deps . && /opt/tollway/bin/python -m compileall -q /opt/tollway/lib

FROM python:3.12-slim
# The user has a number, so that a cluster can see that it is not root.
RUN groupadd --gid 10001 tollway \
    && useradd --uid 10001 --gid tollway --no-create-home --shell /usr/sbin/nologin tollway \
    && install --directory --owner tollway --group tollway --mode 0700 /data \
    && install --directory --owner tollway --group tollway /app
COPY --from=build /opt/tollway /opt/tollway
ENV PATH=/opt/tollway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TOLLWAY_SERVER__HOST=0.0.0.0 \
    TOLLWAY_DATABASE__DATA_DIR=/data \
    TOLLWAY_TELEMETRY__LOG_FORMAT=json
WORKDIR /app
USER 10001:10001
VOLUME /data
EXPOSE 8700
# Longer than worker.grace_s, or a stop cuts what a drain would have ended.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8700/healthz', timeout=2)"]
CMD ["tollway", "up"]
