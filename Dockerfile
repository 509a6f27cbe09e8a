# The service with its stored model inside. TORCH_INDEX chooses the build of PyTorch:
#   docker build -t adalora-qat:cpu .
#   docker build -t adalora-qat:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
RUN python3 -m venv /opt/lungseg \
 && /opt/lungseg/bin/pip install --no-cache-dir --index-url "${TORCH_INDEX}" 'torch>=2.9,<2.14'
COPY pyproject.toml README.md LICENSE ./
COPY model_store model_store
COPY training training
COPY service service
RUN /opt/lungseg/bin/pip install --no-cache-dir .

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="adalora-qat" \
      org.opencontainers.image.description="Lung segmentation of chest X-rays over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/lungseg /opt/lungseg
ENV PATH=/opt/lungseg/bin:$PATH PYTHONUNBUFFERED=1 LUNGSEG_HOST=0.0.0.0 LUNGSEG_PORT=8000
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s \
  CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["python3", "-m", "service"]
