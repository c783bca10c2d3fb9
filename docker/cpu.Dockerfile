# rlscale on a machine without a GPU: everything that `make quickstart` and `make test` need. Not built yet.
#   docker build -f docker/cpu.Dockerfile -t rlscale:cpu .
#   docker run --rm -it --shm-size=4g -v "$PWD/outputs:/rlscale/outputs" rlscale:cpu
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends make gcc libc6-dev libnuma1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /rlscale
# The packages first: this layer is made again only when the lock changes.
COPY Makefile pyproject.toml requirements.lock README.md LICENSE ./
COPY rlscale/__init__.py rlscale/__init__.py
COPY conf conf
COPY recipes recipes
ARG PIP_EXTRA_INDEX_URL=
RUN make install

COPY . .
# `make` compares times, and the lock that was just copied is newer than the installation made from it.
RUN touch .venv/installed
ENTRYPOINT [".venv/bin/python", "-m", "rlscale"]
