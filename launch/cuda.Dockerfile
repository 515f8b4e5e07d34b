# The program for NVIDIA GPUs:  docker build -f launch/cuda.Dockerfile -t rzero_ray:cuda .
#                               docker run --gpus all --shm-size 32g rzero_ray:cuda bash launch/local.sh conf=qwen3_4b_lora
# The driver comes from the host; CUDA's libraries are those that the lock brings.
FROM python:3.12-slim
# Triton compiles its launchers with the system's compiler.
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ git libgomp1 libnuma1 && rm -rf /var/lib/apt/lists/*
WORKDIR /rzero_ray
COPY . .
ENV ACCELERATOR=cuda PYTHON=python3.12 PATH=/rzero_ray/.venv/bin:$PATH
RUN bash launch/setup.sh
