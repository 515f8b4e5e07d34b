# The program for CPUs:  docker build -f launch/cpu.Dockerfile -t rzero_ray:cpu .
#                        docker run --shm-size 4g rzero_ray:cpu bash launch/local.sh
FROM python:3.11-slim
# vLLM needs OpenMP and libnuma; git names the commit in studies.
RUN apt-get update && apt-get install -y --no-install-recommends git libgomp1 libnuma1 && rm -rf /var/lib/apt/lists/*
WORKDIR /rzero_ray
COPY . .
ENV ACCELERATOR=cpu PATH=/rzero_ray/.venv/bin:$PATH
RUN bash launch/setup.sh
