FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
COPY internal/conntrack/go.mod internal/conntrack/
RUN go mod download
COPY main.go cache.go render.go ./
COPY internal internal
ARG TARGETOS TARGETARCH
ARG VERSION=dev
ARG REVISION=unknown
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath \
      -ldflags "-s -w -X main.version=$VERSION -X main.revision=$REVISION" -o /out/metrics-server-prom .

# Nothing but the program and the certificate authorities: no shell, nothing to write to, nobody to be.
FROM scratch
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="metrics-server-prom" \
      org.opencontainers.image.description="Prometheus exporter for the CPU and memory usage that metrics-server knows of nodes, pods and containers" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/metrics-server-prom /metrics-server-prom
USER 65532:65532
EXPOSE 9100
ENTRYPOINT ["/metrics-server-prom"]
