# The server and its page, without root, on a read-only file system but for one volume.
#   docker build -t unsilent .                                                          for CPUs and GPUs; with GPUs run it with --gpus all
#   docker build -t unsilent --build-arg TORCH_INDEX=URL .                              with the wheels of torch at URL, such as CPU wheels,
#                                                                                       which are smaller; without it torch has CUDA
#   docker run --read-only --tmpfs /tmp -v sounds:/data -p 127.0.0.1:8000:8000 unsilent    prints its address with a token
FROM python:3.12-slim-bookworm AS build
ARG TORCH_INDEX=""
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/unsilent
ENV PATH=/opt/unsilent/bin:$PATH
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.8,<2.14"
COPY . /src
RUN pip install --no-cache-dir "/src[serve]"

FROM python:3.12-slim-bookworm
RUN useradd --uid 10001 --home-dir /data --no-create-home unsilent && install --directory --owner=unsilent /data
COPY --from=build /opt/unsilent /opt/unsilent
ENV PATH=/opt/unsilent/bin:$PATH HOME=/data UNSILENT_CACHE=/data PYTHONDONTWRITEBYTECODE=1
USER 10001
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/api/health', timeout=4)"]
ENTRYPOINT ["unsilent", "serve", "--host", "0.0.0.0"]
