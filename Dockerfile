# instant3d serve, with the bundled weights. CPU: docker build -t instant3d .
# CUDA: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 -t instant3d:cuda .
FROM python:3.11-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/instant3d
ENV PATH=/opt/instant3d/bin:$PATH
WORKDIR /source
COPY constraints.txt ./
RUN pip install -c constraints.txt --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple \
    torch torchvision setuptools
COPY . .
RUN pip wheel --no-deps --no-build-isolation -w /wheels . ./wheels/demo_weights \
    && pip install -c constraints.txt /wheels/instant3d_demo_weights-*.whl "$(echo /wheels/instant3d-[0-9]*.whl)[serve]"

FROM python:3.11-slim
RUN useradd --create-home --uid 10001 instant3d && install -d -o instant3d /data
COPY --from=build /opt/instant3d /opt/instant3d
ENV PATH=/opt/instant3d/bin:$PATH PYTHONUNBUFFERED=1 HF_HOME=/data/huggingface
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/api/v1/health', timeout=4)"]
# beyond the container's own loopback address a token is needed: docker run -e INSTANT3D_TOKEN=... -p 7860:7860
ENTRYPOINT ["instant3d"]
CMD ["serve", "--host", "0.0.0.0", "--port", "7860", "--data", "/data/jobs"]
