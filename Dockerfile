# docker build --tag branchline .
# docker run --publish 127.0.0.1:8080:8080 --volume branchline-data:/data branchline
#
# Runs under any user id whose group is 0 (OpenShift), and with a read-only root: only /data is written, and /tmp
# with several workers: docker run --read-only --tmpfs /tmp --user 4242:0 --volume branchline-data:/data branchline

FROM python:3.13-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE branchline.py ./
COPY proxy proxy
COPY storage storage
RUN pip wheel --no-cache-dir --wheel-dir /wheels '.[traces]'

FROM python:3.13-slim-bookworm
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels 'branchline[traces]'
RUN useradd --system --uid 10001 --gid 0 --home-dir /data --shell /usr/sbin/nologin branchline \
    && install --directory --owner branchline --group root --mode 0770 /data

# Inside a container only other containers and published ports reach this address. As it is not loopback, the
# default auth mode takes no request without a bearer token.
ENV PYTHONDONTWRITEBYTECODE=1
ENV BRANCHLINE_SERVER_HOST=0.0.0.0 \
    BRANCHLINE_SERVER_PORT=8080 \
    BRANCHLINE_DATA_DIR=/data
USER 10001:0
WORKDIR /data
VOLUME /data
EXPOSE 8080

# No curl in the slim image; the empty ProxyHandler keeps a proxy of the environment out of it.
HEALTHCHECK --interval=10s --timeout=4s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['BRANCHLINE_SERVER_PORT'] + '/healthz', timeout=3)"]

ENTRYPOINT ["branchline"]
CMD ["serve"]
