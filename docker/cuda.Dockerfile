# rlscale on NVIDIA GPUs, installed as docs/gpus.md says. Written against the packages' own instructions; not built yet.
#   docker build -f docker/cuda.Dockerfile -t rlscale:cuda .
#   docker run --rm -it --gpus all --shm-size=64g --ulimit memlock=-1 -v "$PWD/outputs:/rlscale/outputs" rlscale:cuda
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04

RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential libibverbs1 libnuma1 software-properties-common \
    && add-apt-repository -y ppa:deadsnakes/ppa \
    && apt-get install -y --no-install-recommends python3.11 python3.11-dev python3.11-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /rlscale
COPY requirements.lock ./
RUN python3.11 -m venv .venv \
    && .venv/bin/pip install --no-cache-dir torch==2.13.0 \
    && .venv/bin/pip install --no-cache-dir --no-deps -r requirements.lock \
    && .venv/bin/pip install --no-cache-dir sglang==0.5.19

COPY . .
RUN .venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation -e .
# Ray on Kubernetes starts `ray` and `python` by their names.
ENV PATH="/rlscale/.venv/bin:$PATH"
ENTRYPOINT ["python", "-m", "rlscale"]
