# The service with its stored model inside, for CPUs and for NVIDIA GPUs:
#   docker build --target cpu  -t adalora-qat:cpu .
#   docker build --target cuda -t adalora-qat:cuda .
# The base needs Python 3.11 or newer with venv; `deploy/image/build.sh` makes one of Debian where
# no image registry can be reached.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY deploy/image/lock lock
RUN python3 -m venv /opt/lungseg

FROM build AS build-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN /opt/lungseg/bin/pip install --no-compile --no-deps --extra-index-url "${TORCH_INDEX}" -r lock/torch-cpu.txt
# Extras of pyproject.toml that have a list of their own: "otel", "pacs" or "otel,pacs".
ARG EXTRAS=""
RUN lists=$(echo "cpu,${EXTRAS}" | tr , '\n' | sed -n 's#..*#-r lock/&.txt#p') \
 && /opt/lungseg/bin/pip install --no-compile --no-deps --require-hashes $lists
COPY pyproject.toml README.md LICENSE ./
COPY model_store model_store
COPY service service
COPY deploy/image/slim.sh ./
RUN /opt/lungseg/bin/pip install --no-compile --no-deps --no-build-isolation . \
 && /opt/lungseg/bin/pip check && /opt/lungseg/bin/pip uninstall --yes pip \
 && ./slim.sh /opt/lungseg

FROM ${BASE_IMAGE} AS serving
LABEL org.opencontainers.image.title="adalora-qat" \
      org.opencontainers.image.description="Lung segmentation of chest X-rays over HTTP" \
      org.opencontainers.image.version="0.6.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.documentation="docs/operations/install.md"
# Everything that is written goes to /tmp, the one place that needs not be read-only.
ENV PATH=/opt/lungseg/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    TRITON_CACHE_DIR=/tmp/triton LUNGSEG_HOST=0.0.0.0 LUNGSEG_PORT=8000
WORKDIR /tmp
# A volume that is mounted here for the first time belongs to the service then.
RUN install --directory --owner=10001 --group=10001 /audit /var/spool/lungseg
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s CMD ["python3", "-m", "service.healthcheck"]
ENTRYPOINT ["python3", "-m", "service"]

FROM serving AS cpu
COPY --from=build-cpu /opt/lungseg /opt/lungseg

FROM build AS build-cuda
ARG EXTRAS=""
RUN lists=$(echo "cuda,${EXTRAS}" | tr , '\n' | sed -n 's#..*#-r lock/&.txt#p') \
 && /opt/lungseg/bin/pip install --no-deps --require-hashes $lists
COPY pyproject.toml README.md LICENSE ./
COPY model_store model_store
COPY service service
RUN /opt/lungseg/bin/pip install --no-deps --no-build-isolation . \
 && /opt/lungseg/bin/pip check && /opt/lungseg/bin/pip uninstall --yes pip

FROM serving AS cuda
# Triton builds a small launcher of each kernel with the C compiler, at the first start.
USER 0:0
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
USER 10001:10001
COPY --from=build-cuda /opt/lungseg /opt/lungseg
