# The gateway in a small image: no compiler, no cache, no root. docs/deploy.md tells how to run it.
FROM python:3.13-slim AS build
WORKDIR /source
COPY . .
# Everything is a wheel (scripts/check_wheels.sh), so nothing of a compiler is needed even here.
RUN python -m venv /opt/multiverse \
    && /opt/multiverse/bin/pip install --no-cache-dir --disable-pip-version-check -r requirements.txt \
    && /opt/multiverse/bin/pip uninstall --yes pip

FROM python:3.13-slim
COPY --from=build /opt/multiverse /opt/multiverse
RUN groupadd --gid 10001 multiverse \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin multiverse \
    && install --directory --owner multiverse --group multiverse --mode 0700 /data
ENV PATH=/opt/multiverse/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ENABLE_FILE_LOGGING=false \
    DATABASE_URL=sqlite:////data/gateway.db
WORKDIR /data
USER 10001:10001
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
    CMD ["python", "-c", "import http.client, os, sys; gateway = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('PORT') or 8000), timeout=4); gateway.request('GET', '/health'); sys.exit(gateway.getresponse().status != 200)"]
# As exec form, so that SIGTERM reaches the gateway itself and streams may finish.
CMD ["multiverse", "serve"]
