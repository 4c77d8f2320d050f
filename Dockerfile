# The gateway. `docker build .` makes it; `--target model` makes the small model of the demo in the same way.
# docs/stack.md says how both are run.

FROM python:3.13.16-slim-trixie AS base
# The same number everywhere: volumes and secrets are given to it.
RUN groupadd --gid 10001 luthien \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/luthien --shell /usr/sbin/nologin luthien \
    && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/luthien \
    && install --directory /etc/luthien
ENV PATH=/opt/luthien/bin:$PATH \
    PYTHONUNBUFFERED=1


FROM base AS build
WORKDIR /src
RUN python3 -m venv --without-pip /opt/luthien
# What Luthien needs changes less often than Luthien: a layer of its own, of wheels only, in the versions that are tested.
COPY pyproject.toml constraints.txt ./
RUN python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
      > requirements.txt \
    && pip --python /opt/luthien/bin/python install --no-cache-dir --only-binary :all: \
      --constraint constraints.txt --requirement requirements.txt
COPY README.md LICENSE ./
COPY prisma ./prisma
COPY src ./src
# pip compiles what it installs: nothing is left to write when it runs.
RUN pip --python /opt/luthien/bin/python install --no-cache-dir --no-deps .


FROM base AS runtime
LABEL org.opencontainers.image.title="Luthien" \
      org.opencontainers.image.description="An OpenTelemetry-native control gateway for LLM traffic" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/luthien /opt/luthien
ENV PYTHONDONTWRITEBYTECODE=1 \
    LUTHIEN_HOST=0.0.0.0 \
    LUTHIEN_DATA_DIR=/var/lib/luthien
# Where luthien.yaml is looked for.
WORKDIR /etc/luthien
VOLUME /var/lib/luthien
USER 10001:10001
STOPSIGNAL SIGTERM


FROM runtime AS model
USER 0:0
# Debian keeps no older version that could be named here.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
COPY requirements-demo.txt /opt/luthien/
RUN pip --python /opt/luthien/bin/python install --no-cache-dir --only-binary :all: --no-deps \
      --requirement /opt/luthien/requirements-demo.txt
USER 10001:10001
EXPOSE 8081
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s \
    CMD ["python", "-m", "luthien.health", "http://127.0.0.1:8081/health"]
ENTRYPOINT ["python", "-m", "luthien.demo.model_server"]
CMD ["--host", "0.0.0.0", "--port", "8081"]


FROM runtime AS gateway
EXPOSE 8080
# Alive, not ready: without its database it serves all the same, and must not be killed for that.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python", "-m", "luthien.health"]
ENTRYPOINT ["luthien"]
CMD ["serve"]
