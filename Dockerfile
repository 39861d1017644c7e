# Two images: "gateway" (the last stage, and the default) has what serving needs, no torch and no LiteLLM; "full" also
# trains and serves the local models.
#   docker build -t llmrouter .
#   docker build -t llmrouter-full --target full .
ARG PYTHON=python:3.12-slim

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY requirements/gateway.lock requirements/
RUN pip install --no-deps --require-hashes -r requirements/gateway.lock
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY llmrouter llmrouter
COPY service service
COPY training training
COPY benchmarks benchmarks
RUN pip install --no-deps --no-build-isolation . && python -m compileall -q /opt/venv

FROM build AS build-full
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements/run.lock requirements/
RUN pip install --no-deps --require-hashes -r requirements/run.lock \
    && pip install "${TORCH}" --index-url "${TORCH_INDEX}"

FROM ${PYTHON} AS base
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp LLMROUTER_CACHE=/tmp/llmrouter
# The folders are here so that volumes mounted over them belong to the user.
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin llmrouter \
    && install -d -o llmrouter -g llmrouter /var/lib/llmrouter /var/lib/llmrouter/outcomes /var/lib/llmrouter/artifacts
WORKDIR /var/lib/llmrouter
USER 10001:10001

FROM base AS full
COPY --from=build-full /opt/venv /opt/venv
CMD ["llmrouter", "--help"]

FROM base AS gateway
COPY --from=build /opt/venv /opt/venv
EXPOSE 8080
# SIGTERM lets requests under way end (server.drain_s); SIGHUP reloads the configuration.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
ENTRYPOINT ["llmrouter"]
CMD ["serve", "--config", "/etc/llmrouter/gateway.yaml"]
