# Two images: `service` (the API and migrations, no torch) and `worker` (torch with its CUDA libraries; the host
# needs only the NVIDIA driver and container toolkit). Both install hashed locks, then the project without its
# dependencies, and run as an unprivileged user.

FROM python:3.12-slim AS wheel
WORKDIR /src
COPY requirements/build.lock requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/build.lock
COPY pyproject.toml README.md LICENSE ./
COPY service service
COPY workers workers
COPY migrations migrations
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

FROM python:3.12-slim AS base
# Both images use one numeric id, so they can share the volume that this folder becomes.
RUN useradd --system --uid 10001 --user-group --home-dir /var/lib/unlearn --create-home unlearn \
    && install -d -o unlearn -g unlearn -m 0700 /var/lib/unlearn/artifacts
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    UNLEARN_ENVIRONMENT=production \
    UNLEARN_DATA_DIR=/var/lib/unlearn
WORKDIR /var/lib/unlearn

FROM base AS service
COPY requirements/service.lock /tmp/requirements/
RUN pip install --require-hashes -r /tmp/requirements/service.lock
COPY --from=wheel /wheels /tmp/wheels
RUN pip install --no-deps /tmp/wheels/*.whl
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=3)"]
CMD ["unlearn", "api", "--host", "0.0.0.0", "--port", "8000"]

FROM base AS worker
COPY requirements/worker.lock /tmp/requirements/
RUN pip install --require-hashes -r /tmp/requirements/worker.lock
COPY --from=wheel /wheels /tmp/wheels
RUN pip install --no-deps /tmp/wheels/*.whl
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
HEALTHCHECK --interval=60s --timeout=30s --start-period=60s --retries=3 \
    CMD ["unlearn", "worker-health"]
# A thread pool of one keeps the worker answering while a spawned child holds the GPU. More GPUs: more workers.
CMD ["python", "-m", "celery", "-A", "workers.app", "worker", "--pool", "threads", "--concurrency", "1", \
     "--prefetch-multiplier", "1", "--without-gossip", "--without-mingle", "--loglevel", "INFO"]
