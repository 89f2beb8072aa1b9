# syntax=docker/dockerfile:1
# The relay's image: one static binary, the certificate authorities, a directory for data. Without a container engine
# `go -C deploy/oci run . -out relay.tar` makes the same; its tests hold the two together.
# The Go that deploy/oci/go.mod wants: this image loads no newer one by itself.
FROM --platform=$BUILDPLATFORM golang:1.26.8-bookworm AS build
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=dev
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY deploy/oci/go.mod deploy/oci/go.sum deploy/oci/
RUN go -C deploy/oci mod download
COPY . .
# The zones' data goes into the binary: an image from scratch has none.
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -o /root-fs/usr/bin/relay -trimpath -buildvcs=false -tags timetzdata -ldflags "-s -w -X main.version=$VERSION" ./cmd/relay
RUN mkdir -p /root-fs/etc/ssl/certs && go -C deploy/oci run . -roots /root-fs/etc/ssl/certs/ca-certificates.crt
RUN mkdir -p -m 0700 /root-fs/var/lib/relay

FROM scratch
ARG VERSION=dev
ARG REVISION=
LABEL org.opencontainers.image.title="relay" \
      org.opencontainers.image.description="Hands on what happens to parts orders in Audatex's Inpart" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /root-fs/etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build --chown=65532:65532 /root-fs/var/lib/relay /var/lib/relay
COPY --from=build /root-fs/usr/bin/relay /usr/bin/relay
ENV RELAY_DATA_DIR=/var/lib/relay
VOLUME ["/var/lib/relay"]
EXPOSE 8080 9464
# A number: Kubernetes can see that it is not root.
USER 65532:65532
WORKDIR /
ENTRYPOINT ["/usr/bin/relay"]
CMD ["serve"]
