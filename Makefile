# `make serve` and `make test` are all there is to know; each makes its own environment first.
HOST ?= 127.0.0.1
PORT ?= 8000
PACS_FOLDER ?= pacs-data
OPTIONS ?=
PYTHON ?= python3

.PHONY: serve pacs train-env test test-quick test-image check sbom clean

serve: .venv-serve/ready
	.venv-serve/bin/python -m service --host $(HOST) --port $(PORT) --greet true

# Orthanc, the DICOM node and the service on this machine (docs/pacs.md). Orthanc is asked for first,
# since the environment takes minutes.
pacs:
	@$(PYTHON) -m deploy.orthanc --check --service-port $(PORT) $(OPTIONS)
	@$(MAKE) --no-print-directory .venv-serve/pacs-ready
	.venv-serve/bin/python -m deploy.orthanc --folder $(PACS_FOLDER) --service-port $(PORT) $(OPTIONS)

# Two processes, each with whole files, long ones first.
test: .venv/ready
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# What breaks most often, in under three minutes on two cores: no real runs of training, no killed
# processes, no other programs.
test-quick: .venv/ready
	.venv/bin/python -m pytest -m "not slow" --numprocesses 2

# Builds the container image and starts it without network: root, buildah, debootstrap, the wheels of
# PyTorch's own index (not on PyPI), minutes.
test-image: .venv/ready
	LUNGSEG_TEST_IMAGE=1 .venv/bin/python -m pytest tests/deploy/test_image.py

check: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/typos
	.venv/bin/python -m pytest --quiet tests/test_layers.py tests/test_documentation.py tests/test_prose.py

# Bills of materials (CycloneDX) of the images and of Compose's `cpu-pacs`, from the lock, without network.
sbom: .venv/ready
	.venv/bin/python -m deploy.supply sbom --image cpu --out build/sbom-cpu.json
	.venv/bin/python -m deploy.supply sbom --image cpu --extra pacs --out build/sbom-cpu-pacs.json
	.venv/bin/python -m deploy.supply sbom --image cuda --out build/sbom-cuda.json

# What training needs, for .venv-train/bin/python -m training.
train-env: .venv-train/ready

.venv-train/ready: pyproject.toml
	$(PYTHON) -m venv .venv-train
	.venv-train/bin/python -m pip install --quiet --editable '.[train]'
	touch $@

# What serving needs and nothing else, so that `make serve` starts soon.
.venv-serve/ready: pyproject.toml
	@echo "Setting up .venv-serve, once: PyTorch, OpenVINO and their libraries are downloaded from PyPI."
	$(PYTHON) -m venv .venv-serve
	.venv-serve/bin/python -m pip install --editable .
	touch $@

.venv-serve/pacs-ready: .venv-serve/ready
	.venv-serve/bin/python -m pip install --editable '.[pacs]'
	touch $@

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --editable '.[train,test]'
	touch $@

clean:
	rm -rf .venv .venv-serve .venv-train build *.egg-info .pytest_cache .mypy_cache .ruff_cache
