# Images of the two programs, each one static file on an empty file system: no shell, no libraries, no root.
#
#   docker build --tag crank-agent .               the agent
#   docker build --tag crank-ca --target ca .      the CA
#
# docs/image.md tells the build arguments. With PROGRAMS=prebuilt nothing is compiled: the programs come from dist/linux-ARCH/, where
# deploy/release puts them.

# Name it with its digest to build the same again: rust:1.95-slim-bookworm@sha256:…
ARG RUST_IMAGE=rust:1.95-slim-bookworm
ARG PROGRAMS=build

# On the architecture of the machine that builds, for TARGETARCH: the C compiler is a cross compiler where they differ.
FROM --platform=$BUILDPLATFORM ${RUST_IMAGE} AS toolchain
ARG TARGETARCH
WORKDIR /src
COPY deploy/image/toolchain /usr/local/bin/toolchain
RUN toolchain install && rm -rf /var/lib/apt/lists/*
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
# Sources of nothing: what is built of them are the dependencies, in a layer that stays while Cargo.lock does.
RUN toolchain stand-in

FROM toolchain AS build-agent
ARG TARGETARCH
RUN toolchain build crank-agent
COPY src src
# Newer than what was built of the stand-ins, whatever the time of the files.
RUN touch src/lib.rs src/main.rs src/bin/crank-ca.rs && toolchain build crank-agent /programs

FROM toolchain AS build-ca
ARG TARGETARCH
RUN toolchain build crank-ca
COPY src src
# Newer than what was built of the stand-ins, whatever the time of the files.
RUN touch src/lib.rs src/main.rs src/bin/crank-ca.rs && toolchain build crank-ca /programs

FROM scratch AS prebuilt-agent
ARG TARGETARCH
COPY dist/linux-${TARGETARCH}/crank-agent /programs/

FROM scratch AS prebuilt-ca
ARG TARGETARCH
COPY dist/linux-${TARGETARCH}/crank-ca /programs/

FROM ${PROGRAMS}-agent AS agent-program
FROM ${PROGRAMS}-ca AS ca-program

# Directories that volumes are mounted on: a new volume takes their owner and mode.
FROM scratch AS directories
WORKDIR /directory

FROM scratch AS ca
COPY --from=ca-program /programs/crank-ca /usr/local/bin/crank-ca
COPY --from=directories --chown=65532:65532 /directory /var/lib/crank-ca
COPY --from=directories --chown=65532:65532 /directory /shared/ca-certs
COPY --from=directories --chown=65532:65532 /directory /run/secrets
COPY --from=directories --chown=65532:65532 /directory /tmp
ENV PATH=/usr/local/bin CRANK_CA_DATA_DIR=/var/lib/crank-ca
USER 65532:65532
EXPOSE 9090
ENTRYPOINT ["crank-ca"]
CMD ["serve"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["crank-ca", "health"]
ARG VERSION=unreleased
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="crank-ca" \
  org.opencontainers.image.description="The certificate authority of a Crank mesh" \
  org.opencontainers.image.licenses="Apache-2.0" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.revision="${REVISION}" \
  org.opencontainers.image.created="${CREATED}"

# Last, so that it is the one built where no target is named.
FROM scratch AS agent
COPY --from=agent-program /programs/crank-agent /usr/local/bin/crank-agent
COPY --from=directories --chown=65532:65532 /directory /etc/certs
COPY --from=directories --chown=65532:65532 /directory /shared/ca-certs
COPY --from=directories --chown=65532:65532 /directory /run/secrets
ENV PATH=/usr/local/bin
USER 65532:65532
EXPOSE 9443
ENTRYPOINT ["crank-agent"]
CMD ["run"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["crank-agent", "health"]
ARG VERSION=unreleased
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="crank-agent" \
  org.opencontainers.image.description="Keeps a worker in possession of a valid mTLS certificate" \
  org.opencontainers.image.licenses="Apache-2.0" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.revision="${REVISION}" \
  org.opencontainers.image.created="${CREATED}"
