# The service in one image: the same for `migrate` and `daemon`.
FROM python:3.11-slim AS build
# torch's CPU build: a few hundred megabytes instead of gigabytes of CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
RUN python -m venv /opt/anomaly
COPY constraints.txt ./
RUN /opt/anomaly/bin/pip install --no-cache-dir -c constraints.txt --extra-index-url "$TORCH_INDEX" torch
COPY . .
RUN /opt/anomaly/bin/pip install --no-cache-dir -c constraints.txt .

FROM python:3.11-slim
COPY --from=build /opt/anomaly /opt/anomaly
RUN useradd --uid 10001 --create-home --home-dir /data anomaly
ENV PATH=/opt/anomaly/bin:$PATH PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
USER anomaly
WORKDIR /data
EXPOSE 9464
ENTRYPOINT ["anomaly"]
CMD ["daemon"]
