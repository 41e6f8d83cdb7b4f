# syntax=docker/dockerfile:1

# What is in the image, and how to build it for both architectures: docs/IMAGE.md.

# A builder of the platform itself: nothing here knows which one it is, and no compiler has to cross it.
FROM rust:1.95.0-trixie AS build
ARG TARGETARCH
WORKDIR /kinetide
COPY .deny.toml Cargo.toml Cargo.lock LICENSE ./
COPY image image
COPY gzip gzip
COPY src src
# Without the feature `local`: emulators and SQLite never reach this image.
RUN --mount=type=cache,id=kinetide-registry-$TARGETARCH,target=/usr/local/cargo/registry \
    --mount=type=cache,id=kinetide-target-$TARGETARCH,target=/kinetide/target \
    cargo build --release --locked --no-default-features --features cli,kafka \
    && cp target/release/kinetide /usr/local/bin/kinetide \
    && python3 image/about.py /usr/share/doc/kinetide

# The binary needs glibc of the same Debian, libgcc_s (unwinding of backtraces) and the CA certificates: `cc` is the
# smallest image with these three. It has no shell and no package manager.
FROM gcr.io/distroless/cc-debian13:nonroot
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="kinetide" \
      org.opencontainers.image.description="Lands change streams in a data lake exactly once" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/kinetide/kinetide" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /usr/share/doc/kinetide /usr/share/doc/kinetide
COPY --from=build /usr/local/bin/kinetide /kinetide
# In a task of its own every interface is the task's own; the health check and Prometheus come from outside.
ENV KINETIDE_HTTP=0.0.0.0:8080
EXPOSE 8080
# `nonroot`, as a number: orchestrators can check that it is not 0.
USER 65532:65532
# Drains within KINETIDE_SHUTDOWN_BUDGET.
STOPSIGNAL SIGTERM
# Liveness only: a worker that is not ready (a missing permission, a stuck lake) is not mended by a restart.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=4 CMD ["/kinetide", "health"]
ENTRYPOINT ["/kinetide"]
CMD ["run"]
