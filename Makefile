# make demo   the main job: real images, every op checked and timed, report/index.html
# make test   lint, types, and the whole test suite
# Both set up .venv first, work twice in a row, and need the network only the first time.
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
SOURCES := $(shell find csrc cmake -type f) CMakeLists.txt pyproject.toml

# For the GPU of this machine; without one, any architecture will do for compiling.
LOCAL_ARCH := $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d .)
export FACEKERNELS_CUDA_ARCHS ?= $(or $(LOCAL_ARCH),90)

.PHONY: demo test lint types unit sanitize bench docs format clean

demo: $(VENV)/built
	$(BIN)/facekernels demo

test: lint types unit

lint: $(VENV)/built
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh')

types: $(VENV)/built
	$(BIN)/mypy

unit: $(VENV)/built
	$(BIN)/python -m pytest -q

# CPU and emulated CUDA kernels under the address and undefined sanitizers; emulated CUDA kernels
# under the thread sanitizer. float32.
sanitize: $(VENV)/built
	tools/sanitize.sh address
	tools/sanitize.sh thread

bench: $(VENV)/built
	$(BIN)/facekernels bench --report

docs: $(VENV)/built
	$(BIN)/mkdocs build --strict

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh')

$(VENV)/installed: requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# Without build isolation the build folder is reused: a change compiles only what it touches.
$(VENV)/built: $(VENV)/installed $(SOURCES)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --editable .
	touch $@

clean:
	rm -rf build dist site report $(VENV)/built
